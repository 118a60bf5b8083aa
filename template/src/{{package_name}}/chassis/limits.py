from .server import RequestLimits as RequestLimits
