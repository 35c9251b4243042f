"""A worker's frames: completions count once, are acknowledged when durable; none is guessed at."""

import asyncio
import json
from typing import Any

import msgpack
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.actors.commands import Requeue
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.errors import FrameError
from tests.support.engine_parts import EngineParts, KeptOutlet, done

FAILURE = json.dumps({"type": "E", "message": "m", "retryable": True}).encode()
FATAL = json.dumps({"type": "E", "message": "m", "retryable": False}).encode()


def running(
    jobs: int = 1, **settings: Any
) -> tuple[EngineParts, QueueActor, WorkerActor, KeptOutlet]:
    parts = EngineParts()
    queue = parts.queue("mail", **settings)
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue, jobs)
    parts.settle()
    return parts, queue, worker, outlet


def job_of(parts: EngineParts, token: bytes) -> dict[str, object]:
    job = parts.shards[1].table.get(token[:16])
    assert job is not None
    return job


async def test_a_done_frame_is_acknowledged_when_it_is_durable() -> None:
    parts, _, worker, outlet = running(5)
    tokens = outlet.tokens()
    worker.handle([done(7, b"".join(tokens[:4]), (tokens[4], 0, b'{"n":1}'))])
    parts.journal.take()
    assert outlet.of(12) == []
    parts.journal.commit()
    assert outlet.of(12) == [[12, 7, b""]]
    assert {job_of(parts, token)["status"] for token in tokens} == {"succeeded"}
    assert job_of(parts, tokens[4])["output"] == b'{"n":1}'
    assert parts.counters.succeeded_jobs == 5
    assert worker.outstanding == 0


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (b'"' + b"x" * (limits.RESULT_BYTES_MAX - 1) + b'"', "result_too_large"),
        (b'{"n":', "invalid_result"),
        (b'"\\u0000"', "invalid_result"),
        (b"[" * 99 + b"]" * 99, "invalid_result"),
    ],
    ids=["large", "broken", "nul", "deep"],
)
async def test_a_result_that_cannot_be_kept_fails_its_job_for_good(
    result: bytes, problem: str
) -> None:
    parts, _, worker, outlet = running(2)
    first, second = outlet.tokens()
    kept = b'"' + b"x" * (limits.RESULT_BYTES_MAX - 2) + b'"'
    worker.handle([done(1, b"", (first, 0, result), (second, 0, kept))])
    parts.settle()
    failed = job_of(parts, first)
    assert (failed["status"], failed["reason"]) == ("failed", "not_retryable")
    assert json.loads(bytes(failed["output"]))["type"] == problem  # type: ignore[call-overload]
    assert job_of(parts, second)["output"] == kept
    assert outlet.of(12) == [[12, 1, b""]]


async def test_a_second_completion_is_stale_and_its_ack_waits_for_the_first() -> None:
    parts, _, worker, outlet = running()
    tokens = b"".join(outlet.tokens())
    worker.handle([done(1, tokens)])
    parts.journal.take()
    worker.handle([done(2, tokens, (tokens, 1, FAILURE))])
    assert outlet.of(12) == []
    parts.settle()
    assert outlet.of(12) == [[12, 1, b""], [12, 2, tokens + tokens]]
    assert worker.outstanding == 0


@pytest.mark.parametrize("kind", [None, 0, 1, 2])
async def test_what_another_worker_runs_is_out_of_reach(kind: int | None) -> None:
    """Whoever guesses a token, by the tokens that it gets itself, ends nothing with it."""
    parts, _, worker, outlet = running()
    (token,) = outlet.tokens()
    thief, stolen = parts.worker(["mail"], worker_id=b"t" * 16)
    thief.handle([done(1, token) if kind is None else done(1, b"", (token, kind, FATAL))])
    parts.settle()
    assert stolen.of(12) == [[12, 1, token]]
    assert job_of(parts, token)["status"] == "processing"
    worker.handle([done(1, token)])
    parts.settle()
    assert job_of(parts, token)["status"] == "succeeded"
    assert (worker.outstanding, thief.outstanding) == (0, 0)


async def test_a_job_that_is_put_back_goes_on_counting() -> None:
    """Whose attempts were used up has one more, and whose worker died too often no other worker."""
    parts, queue, worker, outlet = running(
        2, retry_policy={"max_attempts": 2, "base_delay": 0, "max_delay": 0}, crashes_max=1
    )
    shard, (fails, crashes) = parts.shards[1], outlet.tokens()
    worker.handle([done(1, b"", (fails, 1, FAILURE))])
    parts.outcomes.lost(shard, crashes, parts.clock.now_us())
    parts.due()
    parts.settle()
    worker.handle([done(2, b"", (outlet.tokens()[-1], 1, FAILURE))])
    parts.settle()
    for token in (fails, crashes):
        back: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        queue.handle([Requeue(job_of(parts, token), back)])
        parts.settle()
        assert (await back)["status"] == "pending"
    again = {token[:16]: token for token in outlet.tokens()}
    worker.handle([done(3, b"", (again[fails[:16]], 1, FAILURE))])
    parts.outcomes.lost(shard, again[crashes[:16]], parts.clock.now_us())
    parts.settle()
    ends = [job_of(parts, token) for token in (fails, crashes)]
    assert [(job["status"], job["reason"], job["attempt"]) for job in ends] == [
        ("failed", "attempts_exhausted", 3),
        ("failed", "quarantined", 2),
    ]


async def test_a_failure_is_retried_after_its_backoff_and_then_fails_for_good() -> None:
    parts, _, worker, outlet = running(
        retry_policy={"max_attempts": 2, "base_delay": 8, "max_delay": 60}
    )
    worker.handle([done(1, b"", (outlet.tokens()[0], 1, FAILURE))])
    parts.settle()
    job = job_of(parts, outlet.tokens()[0])
    assert job["status"] == "scheduled"
    assert job["due_us"] == parts.clock.now_us() + 4_000_000
    assert parts.due_us == [job["due_us"]]
    parts.clock.advance(4)
    parts.due()
    parts.settle()
    second = outlet.tokens()[1]
    assert outlet.of(11)[1][6] == {0: {"attempt": 2, "timeout_ms": 0, "deadline_us": 0}}
    worker.handle([done(2, b"", (second, 1, FAILURE))])
    parts.settle()
    job = job_of(parts, second)
    assert (job["status"], job["reason"]) == ("failed", "attempts_exhausted")
    assert json.loads(job["output"])["type"] == "E"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (FATAL, 1, "failed"),
        (b"not json", 1, "scheduled"),
        (None, 1, "scheduled"),
        (b'"text"', 1, "scheduled"),
        (b'{"a":"\\u0000"}', 0, "failed"),
        (b"nonsense", 0, "failed"),
        (b"null", 0, "succeeded"),
        (None, 0, "succeeded"),
        (None, 2, "pending"),
    ],
)
async def test_outcomes(data: bytes | None, kind: int, status: str) -> None:
    parts, _, worker, outlet = running()
    parts.dispatcher.stopped = True
    worker.handle([done(1, b"", (outlet.tokens()[0], kind, data))])
    parts.settle()
    assert job_of(parts, outlet.tokens()[0])["status"] == status
    assert outlet.of(12) == [[12, 1, b""]]
    assert worker.outstanding == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x01",
        msgpack.packb({1: 2}),
        msgpack.packb([]),
        msgpack.packb([99]),
        msgpack.packb([2]),
        msgpack.packb([2, -1]),
        msgpack.packb([2, True]),
        msgpack.packb([2, "5"]),
        msgpack.packb([3, 1, b"x" * 23, []]),
        msgpack.packb([3, 1, "text", []]),
        msgpack.packb([3, -1, b"", []]),
        msgpack.packb([3, 1, b"", {}]),
        msgpack.packb([3, 1, b"", [[b"x" * 24, 9, None]]]),
        msgpack.packb([3, 1, b"", [[b"x" * 24, 0]]]),
        msgpack.packb([3, 1, b"", [[b"x", 0, None]]]),
        msgpack.packb([3, 1, b"", [[b"x" * 24, 0, "text"]]]),
        msgpack.packb([4, 1]),
        msgpack.packb([4]) + b"\x00",
        b"\x91" * 2000,
    ],
)
async def test_a_frame_that_cannot_be_understood_ends_the_session(frame: bytes) -> None:
    parts, _, worker, outlet = running()
    worker.handle([frame, msgpack.packb([4])])
    assert outlet.closed is not None
    assert outlet.closed[0] == 1002
    assert outlet.of(13) == []
    with pytest.raises(FrameError):
        await worker.receive([b"\x91\x04"])
    parts.settle()


async def test_a_heartbeat_is_answered() -> None:
    _, _, worker, outlet = running()
    worker.handle([msgpack.packb([4])])
    assert outlet.of(13) == [[13]]


async def test_a_worker_that_says_goodbye_leaves_nothing_running() -> None:
    parts, queue, worker, outlet = running(2)
    worker.handle([done(1, outlet.tokens()[0]), msgpack.packb([5]), b"\x91\x04"])
    assert outlet.closed == (1000, "bye")
    assert len(parts.leases) == 0
    assert queue.ready_jobs() == 1
    assert parts.dispatcher.workers == 0


async def test_a_completion_for_a_shard_that_is_not_here_is_not_acknowledged() -> None:
    parts, _, worker, outlet = running()
    elsewhere = bytes(6) + b"\x70\x09" + bytes(16)
    worker.handle([done(1, elsewhere + outlet.tokens()[0])])
    assert outlet.closed is not None
    assert outlet.closed[0] == 4002
    parts.journal.commit()
    assert outlet.of(12) == []
    assert job_of(parts, outlet.tokens()[0])["status"] == "succeeded"


async def test_an_ack_that_can_never_come_ends_the_session() -> None:
    parts, _, worker, outlet = running()
    worker.handle([done(1, outlet.tokens()[0])])
    parts.journal.take()
    parts.shards[1].on_fenced()
    assert outlet.closed is not None
    assert outlet.closed[0] == 4002
    assert outlet.of(12) == []


async def test_frames_wait_for_a_worker_that_has_enough_to_do() -> None:
    parts, _, worker, _ = running()
    for _ in range(worker.mailbox.capacity):
        await worker.receive([msgpack.packb([4])])
    assert not worker.mailbox.try_send(b"")
    worker.handle(worker.mailbox.recv_nowait(1000))
    worker.detach()
    await worker.receive([msgpack.packb([4])])  # too late, and no error
    assert parts.dispatcher.workers == 0
