"""The jobs of one frame, waiting to be run.

    0 ── ended, reported ── start ── succeeded, to be reported ── next ── waiting ── count

Jobs are taken in order, by moving `next`. A job that succeeded without a result is reported as part
of the run `start … next`, one slice of the frame's token bytes; any other end closes the run.
A payload that is None belongs to a job whose lease is gone: it is passed over.
"""

from taskforge.limits import TOKEN_BYTES
from taskforge.task import Task
from taskforge.worker import frames


class Batch:
    """Jobs of one queue. `plain`: all of one async task, without context, limits or retries."""

    __slots__ = (
        "count",
        "extras",
        "kinds",
        "next",
        "payloads",
        "plain",
        "queue",
        "received_monotonic",
        "start",
        "tasks",
        "tokens",
        "types",
    )

    def __init__(self, frame: frames.Jobs, tasks: dict[str, Task[..., object]], now: float) -> None:
        self.count = frames.check_jobs(frame)
        self.queue = frame.queue
        self.types = frame.types
        self.tasks = [tasks.get(name) for name in frame.types]
        self.kinds = frame.kinds
        self.tokens = frame.tokens
        self.payloads: list[bytes | None] = list(frame.payloads)
        self.extras = frame.extras
        self.received_monotonic = now
        self.start = 0
        self.next = 0
        self.plain = _is_plain(self)

    def token(self, index: int) -> bytes:
        """The token of one job."""
        return self.tokens[index * TOKEN_BYTES : (index + 1) * TOKEN_BYTES]

    def take_run(self, end: int) -> tuple[bytes, int]:
        """The succeeded jobs before `end` that are not reported, which now are."""
        tokens = self.tokens[self.start * TOKEN_BYTES : end * TOKEN_BYTES]
        jobs = end - self.start
        self.start = end
        return tokens, jobs

    def waiting(self) -> list[tuple[int, bytes]]:
        """Index and token of the jobs that are not taken and whose lease holds."""
        return [
            (index, self.token(index))
            for index in range(self.next, self.count)
            if self.payloads[index] is not None
        ]


def _is_plain(batch: Batch) -> bool:
    task = batch.tasks[0] if batch.tasks else None
    return (
        task is not None
        and not batch.extras
        and (not batch.kinds or len(batch.tasks) == 1)
        and task.is_async
        and not task.binding.takes_context
    )
