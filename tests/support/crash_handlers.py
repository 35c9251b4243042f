"""The tasks of the crash tests, for `taskforge-worker tests.support.crash_handlers`.

Each worker process writes its own history into CRASH_HISTORY_DIR: the start and end of each
handler, and what the server said about each completion. The SDK has no hook for the latter, so its
link is watched from outside.
"""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

from taskforge import Context, FatalError, RetryableError, task
from taskforge.worker import frames
from taskforge.worker.link import Link
from taskforge.worker.pool import Pool
from tests.support.historyfile import HistoryFile

ID_BYTES = 16
SLOW_S = 0.05
GATE_LOOK_S = 0.02

_history = HistoryFile(Path(os.environ["CRASH_HISTORY_DIR"]) / f"worker-{os.getpid()}.jsonl")


class Told:
    """Writes the start of a handler on entry and its end on exit."""

    def __init__(self, context: Context, mark: str) -> None:
        self._who = {"job": context.job_id, "lease": context.lease}
        _history.say("start", attempt=context.attempt, mark=mark, **self._who)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _history.say("end", outcome=_outcome(kind), **self._who)


def _outcome(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "ok"
    if kind is FatalError:
        return "fatal"
    return "retry" if kind is RetryableError else "cut"


@task(name="quick")
async def quick(context: Context, mark: str) -> None:
    """Nothing to do."""
    with Told(context, mark):
        pass


@task(name="answer")
async def answer(context: Context, mark: str) -> str:
    """Something to say."""
    with Told(context, mark):
        return mark


@task(name="flaky")
async def flaky(context: Context, mark: str, fails: int = 1) -> None:
    """Fails at first."""
    with Told(context, mark):
        if context.attempt <= fails:
            raise RetryableError(f"attempt {context.attempt} was to fail")


@task(name="slow")
async def slow(context: Context, mark: str) -> None:
    """Takes its time in the loop."""
    with Told(context, mark):
        await asyncio.sleep(SLOW_S)


@task(name="endless")
async def endless(context: Context, mark: str) -> None:
    """Runs until it is cancelled."""
    with Told(context, mark):
        await asyncio.Event().wait()


@task(name="thread")
def thread(context: Context, mark: str) -> None:
    """Takes its time in a thread."""
    with Told(context, mark):
        threading.Event().wait(SLOW_S)


@task(name="doomed")
async def doomed(context: Context, mark: str) -> None:
    """Fails for good."""
    with Told(context, mark):
        raise FatalError("was to fail")


@task(name="gated")
async def gated(context: Context, mark: str, gate: str) -> None:
    """Each attempt ends when its gate, a file, is there."""
    with Told(context, mark):
        path = f"{gate}.{context.attempt}"
        while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - the test is another process
            await asyncio.sleep(GATE_LOOK_S)


def _name(token: bytes) -> dict[str, Any]:
    return {
        "job": str(UUID(bytes=token[:ID_BYTES])),
        "lease": int.from_bytes(token[ID_BYTES:], "big"),
    }


def _watch_acks() -> None:
    """Note what the server says about completions, before the SDK acts on it."""
    handle, lost = Link._handle, Pool.lost

    def noting_handle(link: Link, frame: frames.ServerFrame) -> None:
        if isinstance(frame, frames.Ack):
            sealed = link._completions._sealed.get(frame.seq)
            stale = frames.split(frame.stale)
            if sealed is not None:
                ended = [(token, True) for token in sorted(frames.split(sealed.tokens_ok))]
                ended += [(token, kind == frames.SUCCEEDED) for token, kind, _ in sealed.others]
                for token, succeeded in ended:
                    event = "stale" if token in stale else "acked"
                    _history.say(event, ok=succeeded, **_name(token))
        handle(link, frame)

    def noting_lost(pool: Pool, tokens: set[bytes]) -> None:
        for token in sorted(tokens):
            _history.say("stale", ok=False, **_name(token))
        lost(pool, tokens)

    Link._handle = noting_handle  # type: ignore[method-assign, assignment]
    Pool.lost = noting_lost  # type: ignore[method-assign, assignment]


_watch_acks()
