"""Books hear of every job that was told something, whichever way it came into the table."""

import msgpack

from taskforge_server.engine.model.joboptions import JobOptions, Parents, Told, pack_told
from taskforge_server.engine.shard.control import LOOKS, LOOKS_MIN, CancelBook, ExpiryBook
from taskforge_server.engine.shard.marks import Marks
from taskforge_server.ext.table import NEVER_US, ShardTable, SubmitBatch

NOW_US = 1_700_000_000_000_000
QUEUE, PROJECT = b"q" * 16, b"p" * 16


class Seen:
    """A book that keeps what it saw."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Told] = {}

    def see(self, job_id: bytes, told: Told) -> None:
        self.jobs[job_id] = told


class Peeks(ShardTable):
    """Counts how often somebody looks at a job."""

    peeks = 0

    def peek(self, job_id: bytes) -> tuple[str, int, str, int, bytes | None] | None:
        self.peeks += 1
        return super().peek(job_id)


class Gives(ShardTable):
    """Keeps how many marked jobs each call gave."""

    def __init__(self, shard: int, seed: int) -> None:
        self.given: list[int] = []

    def take_marked(self, *most: int) -> list[tuple[bytes, bytes]]:
        found = super().take_marked(*most)
        self.given.append(len(found))
        return found


def fresh() -> ShardTable:
    table = ShardTable(1, 7)
    table.queue(QUEUE, PROJECT, "q", 0, 2)
    return table


def drained(table: ShardTable) -> dict[bytes, JobOptions]:
    marks, book = Marks(), Seen()
    marks.books.append(book)
    marks.drain(table)
    return {job_id: told.more for job_id, told in book.jobs.items()}


def submitted(table: ShardTable, more: JobOptions | None, due_us: int = 0) -> bytes:
    batch = SubmitBatch()
    batch.add("t", b"{}", due_us=due_us, options=pack_told({"more": more, "tags": ["x"]}))
    return table.submit(0, batch, NOW_US)


def test_submitted_changed_replayed_and_loaded_jobs_are_seen_alike() -> None:
    table = fresh()
    first = submitted(table, JobOptions(expires_us=1))
    submitted(table, None)
    assert drained(table) == {first: JobOptions(expires_us=1)}
    assert drained(table) == {}, "only what is new"
    held = submitted(table, JobOptions(expires_us=2), NEVER_US)
    table.change(held, NOW_US, due_us=NOW_US)
    table.change(first, NOW_US, options=pack_told({"more": JobOptions(expires_us=3)}))
    live = {held: JobOptions(expires_us=2), first: JobOptions(expires_us=3)}
    assert drained(table) == live

    batch = table.take_batch()
    assert batch is not None
    replayed = fresh()
    replayed.replay(batch[0], batch[2])
    assert drained(replayed) == live

    table.committed(batch[0])
    projection = table.collect(100, NOW_US)
    assert projection is not None
    loaded = fresh()
    loaded.load(b"".join(projection.jobs_copy))
    assert drained(loaded) == live


def test_a_takeover_shows_the_books_all_in_many_steps() -> None:
    """Also to the book about children that comes when it is over."""
    table, book, late = Gives(1, 7), Seen(), Seen()
    table.queue(QUEUE, PROJECT, "q", 0, 2)
    marks = Marks([book])
    plain = [submitted(table, JobOptions(expires_us=1)) for _ in range(2_500)]
    parents = Parents(edges=b"", not_before_us=0)
    child = submitted(table, JobOptions(parents=parents), NEVER_US)
    assert [len(book.jobs) for _ in marks.read(table)] == [1_000, 2_000, 2_501]
    assert table.given == [1_000, 1_000, 501, 0], "the table looks at no more at once either"
    assert {*book.jobs} == {*plain, child}
    assert drained(table) == {}
    marks.add_children(late)
    assert {*late.jobs} == {child}, "whoever has no parents is none of its business"
    again = submitted(table, JobOptions(parents=parents), NEVER_US)
    marks.drain(table)
    assert {*late.jobs} == {child, again}


def test_books_do_not_grow_with_jobs_that_ended() -> None:
    table, expiries, cancels = fresh(), ExpiryBook(), CancelBook()
    marks = Marks(pruned=[expiries, cancels])
    worker = table.worker(b"w" * 16)
    for turn in range(5):
        for _ in range(600):
            submitted(table, JobOptions(expires_us=NOW_US + turn + 1, cancel_us=1))
        tokens = msgpack.unpackb(table.start(0, None, worker, 500, NOW_US)[0], strict_map_key=False)
        marks.drain(table)
        table.succeed(tokens[4], NOW_US)
        lsn, _, _ = table.take_batch() or (0, 0, b"")
        table.committed(lsn)
    assert 500 <= len(expiries) <= 2_000
    assert len(cancels) <= 1_600
    found = expiries.take(NOW_US + 10, 10_000)
    waiting = {job["id"] for job in table.snapshot() if job["status"] == "pending"}
    assert waiting <= set(found), "none that waits is forgotten"


def test_a_crowded_book_is_looked_through_in_many_turns_and_loses_nothing() -> None:
    """No turn looks at more of it than by what came in that turn; meanwhile jobs expire, in order,
    and others come."""
    table, expiries, cancels = Peeks(1, 7), ExpiryBook(), CancelBook()
    table.queue(QUEUE, PROJECT, "q", 0, 2)
    worker, marks = table.worker(b"w" * 16), Marks(pruned=[expiries, cancels])
    for number in range(1_000):
        submitted(table, JobOptions(expires_us=NOW_US + number + 1, cancel_us=1))
    table.start(0, None, worker, 500, NOW_US)
    waiting = {job["id"] for job in table.snapshot() if job["status"] == "pending"}
    running = {job["id"] for job in table.snapshot() if job["status"] == "processing"}
    marks.drain(table)
    assert (len(expiries), table.peeks) == (1_000, 0), "not crowded yet"
    late, found, most = [], [], 0
    for turn in range(50):
        late.append(submitted(table, JobOptions(expires_us=NOW_US + turn + 1, cancel_us=1)))
        before = table.peeks
        marks.drain(table)
        most = max(most, table.peeks - before)
        found += expiries.take(NOW_US + turn, 2)
    assert 0 < most <= 2 * (LOOKS_MIN + LOOKS)
    assert len(expiries) < 700, "those that run were forgotten"
    assert running <= {*cancels.jobs()} < running | waiting | {*late}
    found += expiries.take(NOW_US + 1_000, 10_000)
    assert waiting | {*late} <= {*found}
    assert len(found) == len({*found})


def test_a_job_that_ended_or_is_told_nothing_more_is_not_seen() -> None:
    table = fresh()
    first, second = (
        submitted(table, JobOptions(expires_us=1)),
        submitted(table, JobOptions(expires_us=1)),
    )
    table.cancelled(first, "no", NOW_US)
    table.change(second, NOW_US, options=b"")
    assert drained(table) == {}


def test_a_job_whose_time_is_put_off_again_and_again_is_one_entry() -> None:
    table, expiries = fresh(), ExpiryBook()
    marks = Marks(pruned=[expiries])
    job_id = submitted(table, JobOptions(expires_us=NOW_US + 1))
    for turn in range(5_000):
        more = JobOptions(expires_us=NOW_US + 2 + turn)
        table.change(job_id, NOW_US, options=pack_told({"more": more}))
        marks.drain(table)
    assert len(expiries) <= 2 * expiries.crowded < 5_000
    assert expiries.take(NOW_US + 5_000, 10) == []
    assert expiries.take(NOW_US + 5_001, 10) == [job_id]
