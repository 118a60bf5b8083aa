"""Items: the example of a resource."""

from .routes import router

__all__ = ["router"]
