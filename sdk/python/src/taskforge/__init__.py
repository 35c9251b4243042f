"""The Python SDK of TaskForge: submit jobs, and run the workers that execute them."""

from taskforge.context import Context
from taskforge.errors import (
    FatalError,
    RetryableError,
    TaskForgeError,
)
from taskforge.task import JobSpec, Task, task
from taskforge.version import VERSION

__version__ = VERSION

__all__ = [
    "Context",
    "FatalError",
    "JobSpec",
    "RetryableError",
    "Task",
    "TaskForgeError",
    "task",
]
