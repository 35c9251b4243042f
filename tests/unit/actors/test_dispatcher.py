"""Ready jobs and credit are matched: by queue priority, in turns, by type, never beyond credit."""

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ShardLost
from tests.support.engine_parts import PROJECT, EngineParts, done

A, B = b"a" * 16, b"b" * 16


def counts(payloads: list[bytes]) -> dict[bytes, int]:
    return {payload: payloads.count(payload) for payload in sorted(set(payloads))}


async def test_the_queue_with_the_higher_priority_comes_first() -> None:
    parts = EngineParts((1, 2))
    low, high = parts.queue("low", 1), parts.queue("high", 7, shard=2)
    parts.submit(low, 4, payload=b"1")
    parts.submit(high, 3, payload=b"7")
    _, outlet = parts.worker(["low", "high"], credit=5)
    parts.settle()
    assert counts(outlet.payloads()) == {b"7": 3, b"1": 2}


async def test_queues_of_one_priority_take_turns() -> None:
    parts = EngineParts((1, 2))
    first, second = parts.queue("first"), parts.queue("second", shard=2)
    parts.submit(first, 3 * limits.ASSIGN_JOBS_MAX, payload=b"1")
    parts.submit(second, 3 * limits.ASSIGN_JOBS_MAX, payload=b"2")
    _, outlet = parts.worker(["first", "second"], credit=2 * limits.ASSIGN_JOBS_MAX)
    parts.settle()
    share = limits.ASSIGN_JOBS_MAX
    assert counts(outlet.payloads()) == {b"1": share, b"2": share}


async def test_few_jobs_spread_over_all_workers() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    _, one = parts.worker(["mail"], worker_id=A)
    _, two = parts.worker(["mail"], worker_id=B)
    parts.submit(queue, 10)
    parts.settle()
    assert len(one.payloads()) == len(two.payloads()) == 5
    parts.submit(queue)
    parts.submit(queue)
    parts.settle()
    assert len(one.payloads()) == len(two.payloads()) == 6


async def test_a_worker_gets_only_its_types_and_never_more_than_its_credit() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.submit(queue, 3, job_type="other")
    parts.submit(queue, 3, job_type="send")
    worker, outlet = parts.worker(["mail"], credit=2)
    parts.settle()
    assert [frame[2] for frame in outlet.of(11)] == [["send"]]
    assert len(outlet.tokens()) == 2
    worker.handle([done(1, b"".join(outlet.tokens()))])
    parts.settle()
    assert len(outlet.tokens()) == 3
    assert worker.free == 1
    _, other = parts.worker(["mail"], types=["other"], worker_id=B)
    parts.settle()
    assert len(other.tokens()) == 3


async def test_who_has_no_credit_gets_nothing_until_there_is_some() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"], credit=0)
    parts.submit(queue, 2)
    parts.settle()
    assert outlet.frames == []
    worker.handle([b"\x92\x02\x05"])
    parts.settle()
    assert len(outlet.tokens()) == 2


async def test_jobs_go_by_priority_and_then_in_the_order_of_their_submission() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    for priority, payload in ((0, b"1"), (9, b"2"), (0, b"3"), (9, b"4")):
        parts.submit(queue, payload=payload, priority=priority)
    _, outlet = parts.worker(["mail"])
    parts.settle()
    assert outlet.payloads() == [b"2", b"4", b"1", b"3"]


async def test_a_worker_that_left_gets_nothing_and_a_started_job_is_not_sent_to_it() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"])
    parts.submit(queue)
    parts.dispatcher.turn()
    worker.detach()
    parts.settle()
    parts.submit(queue)
    parts.settle()
    assert outlet.frames == []
    assert queue.ready_jobs() == 1


async def test_what_was_never_durable_does_not_use_up_credit() -> None:
    parts = EngineParts((1, 2))
    queue = parts.queue("mail")
    worker, outlet = parts.worker(["mail"], credit=3)
    reply = parts.submit(queue, 3)
    parts.dispatcher.turn()
    parts.journal.take()
    assert worker.free == 0
    parts.shards[1].on_fenced()
    assert worker.free == 3
    assert outlet.frames == []
    assert isinstance(reply.exception(), ShardLost)


async def test_a_queue_that_fails_stops_no_other() -> None:
    parts = EngineParts((1, 2))
    broken, good = parts.queue("broken", 9), parts.queue("good", shard=2)
    _, outlet = parts.worker(["broken", "good"])
    parts.submit(broken)
    parts.submit(good)
    broken.index = 99
    parts.settle()
    assert len(outlet.tokens()) == 1
    assert parts.broken == [broken]


async def test_a_draining_node_starts_nothing() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    _, outlet = parts.worker(["mail"])
    parts.dispatcher.stopped = True
    parts.submit(queue)
    parts.settle()
    assert outlet.frames == []


async def test_a_job_put_back_before_its_start_was_durable_starts_after_that_commit() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    first, _ = parts.worker(["mail"], worker_id=A)
    parts.submit(queue)
    parts.dispatcher.turn()
    first.handle([b"\x91\x05"])  # bye: what it has goes back, while its start still gathers
    _, outlet = parts.worker(["mail"], worker_id=B)
    parts.dispatcher.turn()
    assert queue.ready_jobs() == 1
    # Nobody says anything from here on but the commit.
    assert parts.journal.commit() == 1
    parts.settle()
    assert [token[16:] for token in outlet.tokens()] == [(2).to_bytes(8, "big")]


async def test_a_backlog_of_another_project_does_not_go_first() -> None:
    parts = EngineParts((1, 2))
    noisy, quiet = parts.queue("noisy", 9), parts.queue("quiet", 0, 2, b"q" * 16)
    parts.submit(noisy, 20 * limits.ASSIGN_JOBS_MAX)
    parts.worker(["noisy"], credit=limits.CREDIT_MAX, worker_id=A)
    parts.worker(["quiet"], worker_id=B)
    parts.submit(quiet)
    parts.dispatcher._portion(limits.ASSIGN_JOBS_MAX + 1)
    assert quiet.ready_jobs() == 0
    assert noisy.ready_jobs() >= 18 * limits.ASSIGN_JOBS_MAX


async def test_weights_of_projects_count_in_each_portion() -> None:
    parts = EngineParts((1, 2))
    heavy, light = parts.queue("heavy"), parts.queue("light", 0, 2, b"q" * 16)
    parts.dispatcher.weigh(PROJECT, 3)
    for queue, worker_id in ((heavy, A), (light, B)):
        parts.submit(queue, 16 * limits.ASSIGN_JOBS_MAX)
        parts.worker([queue.ref.name], credit=limits.CREDIT_MAX, worker_id=worker_id)
    parts.dispatcher._portion(8 * limits.ASSIGN_JOBS_MAX)
    given = [16 * limits.ASSIGN_JOBS_MAX - queue.ready_jobs() for queue in (heavy, light)]
    assert given == [6 * limits.ASSIGN_JOBS_MAX, 2 * limits.ASSIGN_JOBS_MAX]


async def test_a_queue_of_low_priority_gets_a_job_in_the_end() -> None:
    parts = EngineParts((1, 2))
    high, low = parts.queue("high", 9), parts.queue("low", 0, shard=2)
    parts.submit(high, 1_000, payload=b"9")
    parts.submit(low, 10, payload=b"0")
    worker, outlet = parts.worker(["high", "low"], credit=1)
    for seq in range(30):
        parts.settle()
        worker.handle([done(seq, outlet.tokens()[-1])])
        parts.clock.advance(limits.STARVATION_S / 10)
    assert b"0" not in outlet.payloads()[:10]
    assert counts(outlet.payloads())[b"0"] == 2


async def test_while_tenants_share_the_log_a_queue_pauses_until_the_journal_took_what_gathers() -> (
    None
):
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.submit(queue, 4 * limits.GATHER_EVENTS_MAX)
    parts.journal.commit()
    _, outlet = parts.worker(["mail"], credit=limits.CREDIT_MAX)
    parts.journal.crowded = True
    parts.dispatcher.turn()
    started = queue.starts.total
    assert limits.GATHER_EVENTS_MAX <= started < 2 * limits.GATHER_EVENTS_MAX
    parts.dispatcher.turn()
    assert queue.starts.total == started, "nothing has changed"
    parts.journal.take()
    parts.dispatcher.turn()
    assert started < queue.starts.total < 3 * limits.GATHER_EVENTS_MAX
    parts.settle()
    assert len(outlet.tokens()) == 4 * limits.GATHER_EVENTS_MAX
