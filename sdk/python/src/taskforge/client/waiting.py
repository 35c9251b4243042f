"""Waiting for many jobs: how a wait is cut into requests, and what their answers mean."""

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Literal, Protocol

import msgspec

from taskforge.client import calls
from taskforge.client.models import Job, JobEnd
from taskforge.limits import WAIT_JOBS_MAX, WAIT_STEP_S


class HasId(Protocol):
    """A handle of a job."""

    @property
    def id(self) -> str: ...


class Waited(msgspec.Struct, frozen=True):
    """The answer to one request."""

    done: bool
    jobs: list[JobEnd]


_read = calls.reader(Waited)
_to_json = msgspec.json.Encoder().encode


class Wait:
    """One wait: which jobs the next request is about, and what is known of them.

    All of them are waited for in parts of WAIT_JOBS_MAX, one after the other: the last part has
    ended, or is close to it, when its turn comes.
    """

    def __init__(
        self, jobs: Iterable[HasId | str], mode: Literal["all", "any"], timeout_s: float | None
    ) -> None:
        self._ids = [job if isinstance(job, str) else job.id for job in jobs]
        self._waiting = list(dict.fromkeys(self._ids))
        if mode == "any" and not 1 <= len(self._waiting) <= WAIT_JOBS_MAX:
            raise ValueError(f"wait for one of 1 to {WAIT_JOBS_MAX} jobs")
        self._mode = mode
        self._timeout_s = timeout_s
        self._until = None if timeout_s is None else monotonic() + timeout_s
        self._ends: dict[str, JobEnd] = {}
        self.over = not self._waiting

    def next_call(self) -> calls.Call[Waited]:
        """The next request."""
        step_s = WAIT_STEP_S
        if self._until is not None:
            step_s = max(0.0, min(step_s, self._until - monotonic()))
        body = {
            "ids": self._waiting[:WAIT_JOBS_MAX],
            "mode": self._mode,
            "timeout": f"{round(step_s * 1000)}ms",
        }
        return calls.Call("POST", "/v1/jobs/wait", _read, _to_json(body), extra_s=step_s)

    def take(self, answer: Waited) -> None:
        """Its answer. TimeoutError when the time is over."""
        for job in answer.jobs:
            if job.finished:
                self._ends[job.id] = job
        self._waiting = [id for id in self._waiting if id not in self._ends]
        self.over = not self._waiting or (self._mode == "any" and bool(self._ends))
        if not self.over and self._until is not None and monotonic() >= self._until:
            count = len(self._waiting)
            raise TimeoutError(f"{count} jobs have not ended after {self._timeout_s:g} s")

    @property
    def omitted(self) -> list[str]:
        """Jobs whose results were too large for the answers."""
        return [end.id for end in self._ends.values() if end.result_omitted]

    def fill(self, job: Job) -> None:
        """The whole of such a job."""
        self._ends[job.id] = msgspec.structs.replace(
            self._ends[job.id], result=job.result, last_error=job.last_error, result_omitted=False
        )

    def found(self) -> Sequence[JobEnd]:
        """Those that have ended, in the order in which they were named."""
        return [self._ends[id] for id in self._ids if id in self._ends]
