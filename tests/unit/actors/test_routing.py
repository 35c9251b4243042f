"""Who takes from a queue: anybody, workers of some types, those assigned to it, nobody drained."""

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.actors.queue import QueueActor
from taskforge_server.engine.model.queue import QueueRef, QueueSettings
from tests.support.engine_parts import EngineParts, KeptOutlet, done

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def got(*outlets: KeptOutlet) -> list[int]:
    return [len(outlet.tokens()) for outlet in outlets]


def change(parts: EngineParts, queue: QueueActor, **settings: object) -> None:
    old = queue.ref
    ref = QueueRef(
        old.id,
        old.project_id,
        old.name,
        old.priority,
        msgspec.convert(settings, QueueSettings),
        old.shard,
    )
    parts.refs[ref.id] = ref
    queue.update(ref)
    parts.dispatcher.queue_changed(queue)


async def test_assigned_workers_get_jobs_in_proportion_to_their_weights() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.assign(queue, {A: 3, B: 1})
    _, a = parts.worker(["mail"], credit=10_000, worker_id=A)
    _, b = parts.worker(["mail"], credit=10_000, worker_id=B)
    _, c = parts.worker(["mail"], credit=10_000, worker_id=C)
    parts.submit(queue, 400)
    parts.settle()
    assert got(a, b, c) == [300, 100, 0]
    for _ in range(100):
        parts.submit(queue)
        parts.settle()
    assert got(a, b, c) == [375, 125, 0]
    parts.submit(queue, 8 * limits.ASSIGN_JOBS_MAX)
    parts.settle()
    assert sum(got(a, b)) == 500 + 8 * limits.ASSIGN_JOBS_MAX
    assert abs(got(a)[0] - 3 * got(b)[0]) <= 3 * limits.ASSIGN_JOBS_MAX


async def test_who_has_no_credit_is_passed_over_and_nothing_waits_for_it() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    parts.assign(queue, {A: 1000, B: 1})
    worker, a = parts.worker(["mail"], credit=5, worker_id=A)
    _, b = parts.worker(["mail"], credit=1000, worker_id=B)
    parts.submit(queue, 50)
    parts.settle()
    assert got(a, b) == [5, 45]
    worker.handle([done(1, b"".join(a.tokens()))])
    parts.submit(queue, 3)
    parts.settle()
    assert got(a, b) == [8, 45]


async def test_a_queue_whose_workers_are_away_waits_until_others_may() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    _, other = parts.worker(["mail"], worker_id=C)
    parts.assign(queue, {A: 1})
    parts.submit(queue, 4)
    parts.settle()
    assert got(other) == [0]
    assert queue.ready_jobs() == 4
    _, a = parts.worker(["mail"], credit=1, worker_id=A)
    parts.settle()
    assert got(a, other) == [1, 0]
    parts.assign(queue, {})
    parts.settle()
    assert got(a, other) == [1, 3]


async def test_weights_and_assignments_change_while_workers_are_connected() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    first, a = parts.worker(["mail"], credit=10_000, worker_id=A)
    _, b = parts.worker(["mail"], credit=10_000, worker_id=B)
    parts.submit(queue, 10)
    parts.settle()
    assert got(a, b) == [5, 5]
    parts.assign(queue, {A: 1})
    parts.submit(queue, 10)
    parts.settle()
    assert got(a, b) == [15, 5]
    parts.assign(queue, {A: 1, B: 4})
    parts.submit(queue, 50)
    parts.settle()
    assert got(a, b) == [25, 45]
    parts.assign(queue, {A: 4, B: 1})
    parts.submit(queue, 500)
    parts.settle()
    assert got(a, b) == [425, 145]
    first.detach()
    parts.submit(queue, 5)
    parts.settle()
    assert got(a, b) == [425, 150]


async def test_only_workers_of_the_named_types_get_jobs() -> None:
    parts = EngineParts()
    queue = parts.queue("video", worker_types=["specialized_cpu"])
    _, general = parts.worker(["video"], worker_id=A)
    _, cpu = parts.worker(["video"], worker_id=B, worker_type="specialized_cpu")
    parts.submit(queue, 6)
    parts.settle()
    assert got(general, cpu) == [0, 6]
    change(parts, queue, worker_types=["general", "specialized_io"])
    parts.submit(queue, 6)
    parts.settle()
    assert got(general, cpu) == [6, 6]
    change(parts, queue)
    parts.submit(queue, 6)
    parts.settle()
    assert got(general, cpu) == [9, 9]


async def test_an_assigned_worker_of_another_type_gets_nothing() -> None:
    parts = EngineParts()
    queue = parts.queue("video", worker_types=["specialized_cpu"])
    parts.assign(queue, {A: 1, B: 1})
    _, general = parts.worker(["video"], worker_id=A)
    _, cpu = parts.worker(["video"], worker_id=B, worker_type="specialized_cpu")
    parts.submit(queue, 4)
    parts.settle()
    assert got(general, cpu) == [0, 4]


async def test_a_drained_worker_finishes_and_gets_nothing_new_not_even_after_a_reconnect() -> None:
    parts = EngineParts((1, 2))
    mail, slow = parts.queue("mail"), parts.queue("slow", shard=2)
    parts.assign(slow, {A: 1})
    worker, a = parts.worker(["mail", "slow"], worker_id=A)
    _, b = parts.worker(["mail"], worker_id=B)
    parts.submit(mail, 2)
    parts.settle()
    assert got(a, b) == [1, 1]
    parts.drain(A)
    parts.submit(mail, 4)
    parts.submit(slow, 2)
    worker.handle([done(1, a.tokens()[0])])
    parts.settle()
    assert a.of(12) == [[12, 1, b""]]
    assert got(a, b) == [1, 5]
    worker.detach()
    _, again = parts.worker(["mail", "slow"], worker_id=A)
    parts.settle()
    assert got(again) == [0]
    parts.drain(A, drained=False)
    parts.settle()
    assert got(again) == [2]


async def test_the_turns_of_a_queue_whose_workers_all_drain_go_on_afterwards() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    worker, a = parts.worker(["mail"], worker_id=A)
    parts.drain(A)
    parts.submit(queue, 3)
    parts.settle()
    worker.handle([b"\x92\x02\x05"])  # credit, which tempts nobody
    parts.settle()
    assert got(a) == [0]
    parts.drain(A, drained=False)
    parts.settle()
    assert got(a) == [3]


async def test_what_was_decided_while_a_shard_was_away_holds_when_it_is_back() -> None:
    parts = EngineParts()
    queue = parts.queue("mail")
    _, a = parts.worker(["mail"], worker_id=A)
    _, b = parts.worker(["mail"], worker_id=B)
    parts.roster.assign(queue.ref.id, {B: 1})  # nobody has an actor to tell
    back = parts.queue("mail")
    parts.dispatcher.replace(queue, back)
    parts.submit(back, 4)
    parts.settle()
    assert got(a, b) == [0, 4]
