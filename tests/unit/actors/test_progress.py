"""Progress: under the current lease alone, bounded, and forgotten with the lease."""

from typing import Any

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.progress import Running
from taskforge_server.engine.actors.worker import WorkerActor
from tests.support.engine_parts import EngineParts, KeptOutlet, done


class Heard:
    """What followers would be told."""

    def __init__(self) -> None:
        self.words: list[tuple[bytes, Any, Any]] = []

    def progress(self, running: Running) -> None:
        self.words.append((running.job_id, *running.progress[:2]))


def running(jobs: int = 1) -> tuple[EngineParts, WorkerActor, KeptOutlet, Heard]:
    parts, heard = EngineParts(), Heard()
    parts.progress.sink = heard
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue, jobs)
    parts.settle()
    return parts, worker, outlet, heard


def words(*entries: Any) -> bytes:
    frame: bytes = msgpack.packb([7, list(entries)])
    return frame


async def test_the_newest_word_of_a_running_job_is_remembered_and_each_is_told() -> None:
    parts, worker, outlet, heard = running()
    (token,) = outlet.tokens()
    worker.handle([words([token, 10, None], [token, 99.5, "nearly"])])
    assert heard.words == [(token[:16], 10, None), (token[:16], 99.5, "nearly")]
    said = parts.progress.find(token)
    assert said is not None
    assert said[:2] == (99.5, "nearly")
    assert outlet.of(14) == []
    assert parts.journal.take() == 0, "nothing of it is for the log"


async def test_without_the_lease_nothing_counts_and_the_worker_is_told() -> None:
    parts, worker, outlet, heard = running()
    (token,) = outlet.tokens()
    thief, stolen = parts.worker(["mail"], worker_id=b"t" * 16)
    thief.handle([words([token, 50, "mine"])])
    assert stolen.of(14) == [[14, token]]
    worker.handle([done(1, token), words([token, 60, "late"])])
    assert outlet.of(14) == [[14, token]]
    assert heard.words == []
    assert parts.progress.find(token) is None


async def test_a_worker_that_tells_too_much_is_not_heard_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PROGRESS_PER_S_MAX", 3)
    parts, worker, outlet, heard = running()
    (token,) = outlet.tokens()
    worker = parts.worker(["mail"])[0]
    worker.handle([words(*([token, n, None] for n in range(5)))])
    assert [percent for _, percent, _ in heard.words] == [0, 1, 2]
    assert parts.counters.progress_dropped == 2
    parts.clock.advance(1.0)
    worker.handle([words([token, 9, None])])
    assert heard.words[-1][1] == 9


async def test_one_tenant_does_not_fill_the_book_of_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PROGRESS_JOBS_MAX", 2)
    monkeypatch.setattr(limits, "LOG_ATTEMPTS_SWEPT", 2)
    parts, worker, outlet, heard = running(3)
    first, second, third = outlet.tokens()
    worker.handle([words([first, 10, None], [second, 20, None])])
    assert [percent for _, percent, _ in heard.words] == [10, 20], "told in any case"
    assert parts.progress.find(first) is not None
    assert parts.progress.find(second) is None
    worker.handle([done(1, first), words([third, 30, None], [third, 40, None])])
    assert parts.progress.find(third) is not None, "what is over made room"


async def test_long_messages_are_cut() -> None:
    parts, worker, outlet, _ = running()
    (token,) = outlet.tokens()
    worker.handle([words([token, None, "\u00f6" * 4_000])])
    said = parts.progress.find(token)
    assert said is not None
    assert said.message == "\u00f6" * (limits.PROGRESS_MESSAGE_BYTES_MAX // 2)


@pytest.mark.parametrize(
    "entry",
    [
        1,
        [b"x" * 24],
        [b"x", 1, None],
        [b"x" * 24, 101, None],
        [b"x" * 24, True, None],
        [b"x" * 24, float("nan"), None],
        [b"x" * 24, 1, b"bytes"],
    ],
)
async def test_frames_that_make_no_sense_end_the_session(entry: Any) -> None:
    _, worker, outlet, _ = running()
    worker.handle([words(entry)])
    assert outlet.closed is not None
    assert outlet.closed[0] == 1002
