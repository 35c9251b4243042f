"""The Python SDK of TaskForge: submit jobs, and run the workers that execute them.

Workers stand in `taskforge.worker`, apart from this, so that a program that only submits does not
load what they need.
"""

from taskforge.client import (
    AsyncClient,
    AsyncJobHandle,
    Client,
    DeadLetterHook,
    DeadLettersDone,
    DeadLetterSettings,
    Execution,
    Job,
    JobEnd,
    JobEvent,
    JobHandle,
    LogLine,
    Progress,
    Queue,
    QueueSettings,
    RetryBudget,
    RetryPolicy,
)
from taskforge.context import Context
from taskforge.errors import (
    ApiError,
    Cancel,
    Conflict,
    ConnectionFailed,
    Fail,
    FatalError,
    InvalidInput,
    JobCancelled,
    JobFailed,
    NotFound,
    Overloaded,
    PermissionDenied,
    Retry,
    RetryableError,
    ServerError,
    Snooze,
    SoftTimeout,
    SubmitError,
    TaskForgeError,
    Unauthenticated,
    WorkerRefused,
)
from taskforge.graph import Graph, Node
from taskforge.options import JobOptions
from taskforge.task import JobSpec, Task, task
from taskforge.version import VERSION

__version__ = VERSION

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJobHandle",
    "Cancel",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Context",
    "DeadLetterHook",
    "DeadLetterSettings",
    "DeadLettersDone",
    "Execution",
    "Fail",
    "FatalError",
    "Graph",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobEnd",
    "JobEvent",
    "JobFailed",
    "JobHandle",
    "JobOptions",
    "JobSpec",
    "LogLine",
    "Node",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Progress",
    "Queue",
    "QueueSettings",
    "Retry",
    "RetryBudget",
    "RetryPolicy",
    "RetryableError",
    "ServerError",
    "Snooze",
    "SoftTimeout",
    "SubmitError",
    "Task",
    "TaskForgeError",
    "Unauthenticated",
    "WorkerRefused",
    "task",
]
