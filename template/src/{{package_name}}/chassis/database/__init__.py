"""The database: sessions for routes, the base class of your tables, what an error means.

`etags` and `pagination` help to serve rows; `sqlite` or `postgresql` contains the feature.
"""

from .base import Base
from .faults import is_reference, is_taken
from .sessions import Database, ReadSessionDep, SessionDep, open_read_session, open_session

__all__ = [
    "Base",
    "Database",
    "ReadSessionDep",
    "SessionDep",
    "is_reference",
    "is_taken",
    "open_read_session",
    "open_session",
]
