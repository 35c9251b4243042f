"""Clients: programs that submit jobs and look after them."""

from taskforge.client.asynchronous import AsyncClient, AsyncJobHandle
from taskforge.client.blocking import Client, JobHandle
from taskforge.client.buffer import Buffer
from taskforge.client.dead_letters import DeadLettersDone
from taskforge.client.models import (
    DeadLetterHook,
    DeadLetterSettings,
    Execution,
    Job,
    JobEnd,
    JobEvent,
    JobStatus,
    LogLevel,
    LogLine,
    Progress,
    Queue,
    QueueCounts,
    QueueSettings,
    Rate,
    Reason,
    RetryBudget,
    RetryPolicy,
    Why,
)
from taskforge.client.schedules import Schedule
from taskforge.client.workers import Assignment, WorkerInfo

__all__ = [
    "Assignment",
    "AsyncClient",
    "AsyncJobHandle",
    "Buffer",
    "Client",
    "DeadLetterHook",
    "DeadLetterSettings",
    "DeadLettersDone",
    "Execution",
    "Job",
    "JobEnd",
    "JobEvent",
    "JobHandle",
    "JobStatus",
    "LogLevel",
    "LogLine",
    "Progress",
    "Queue",
    "QueueCounts",
    "QueueSettings",
    "Rate",
    "Reason",
    "RetryBudget",
    "RetryPolicy",
    "Schedule",
    "Why",
    "WorkerInfo",
]
