"""Jobs: work that a worker does later, enqueued in the transaction of a request.

`job` makes a job of a function; `feature` lists the jobs in `app.py`.
"""

from .commands import commands
from .feature import Settings, feature
from .job import Job, Run, job

__all__ = ["Job", "Run", "Settings", "commands", "feature", "job"]
