"""The Python SDK of TaskForge: submit jobs, and run the workers that execute them.

Workers stand in `taskforge.worker`, apart from this, so that a program that only submits does not
load what they need.
"""

from taskforge.client import (
    AsyncClient,
    AsyncJobHandle,
    Client,
    Execution,
    Job,
    JobHandle,
    LogLine,
    Queue,
    QueueSettings,
    RetryPolicy,
)
from taskforge.context import Context
from taskforge.errors import (
    ApiError,
    Conflict,
    ConnectionFailed,
    FatalError,
    InvalidInput,
    JobCancelled,
    JobFailed,
    NotFound,
    Overloaded,
    PermissionDenied,
    RetryableError,
    ServerError,
    SubmitError,
    TaskForgeError,
    Unauthenticated,
    WorkerRefused,
)
from taskforge.options import JobOptions
from taskforge.task import JobSpec, Task, task
from taskforge.version import VERSION

__version__ = VERSION

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJobHandle",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Context",
    "Execution",
    "FatalError",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobOptions",
    "JobSpec",
    "LogLine",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Queue",
    "QueueSettings",
    "RetryPolicy",
    "RetryableError",
    "ServerError",
    "SubmitError",
    "Task",
    "TaskForgeError",
    "Unauthenticated",
    "WorkerRefused",
    "task",
]
