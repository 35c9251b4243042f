"""Effects are released after their commit, in order, and refused when the shard is lost."""

from taskforge_server.engine.errors import ShardLost, Unavailable
from taskforge_server.engine.shard.effects import Join, Reply
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.table import ShardTable, SubmitBatch

NOW_US = 1_700_000_000_000_000
QUEUE, PROJECT, WORKER = b"q" * 16, b"p" * 16, b"w" * 16


class Probe:
    """An effect that notes what became of it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    def release(self) -> None:
        self.notes.append(self.name)

    def refuse(self, error: Exception) -> None:
        assert isinstance(error, ShardLost)
        self.notes.append(f"no {self.name}")


class Promise:
    """The part of a future that effects use."""

    def __init__(self) -> None:
        self.result: object = None
        self.error: Exception | None = None
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: object) -> None:
        self.result, self._done = result, True

    def set_exception(self, exception: Exception) -> None:
        self.error, self._done = exception, True


def new_shard() -> tuple[Shard, int, list[Shard]]:
    lost: list[Shard] = []
    shard = Shard(3, ShardTable(3, 1), 1, lost.append)
    return shard, shard.table.queue(QUEUE, PROJECT, "mail", 0, 2), lost


def submit(shard: Shard, queue: int, jobs: int = 1) -> bytes:
    batch = SubmitBatch()
    for _ in range(jobs):
        batch.add("send", b"{}")
    return shard.table.submit(queue, batch, NOW_US)


def test_an_effect_waits_for_the_commit_of_what_was_decided_before_it() -> None:
    shard, queue, _ = new_shard()
    notes: list[str] = []
    submit(shard, queue)
    shard.effect(Probe("a", notes))
    batch = shard.take_batch()
    assert batch is not None
    submit(shard, queue)
    shard.effect(Probe("b", notes))
    assert notes == []
    shard.on_committed(batch[0])
    assert notes == ["a"]
    second = shard.take_batch()
    assert second is not None
    shard.effect(Probe("c", notes))  # nothing gathers: it depends on what is in flight
    shard.on_committed(second[0])
    assert notes == ["a", "b", "c"]


def test_an_effect_of_nothing_new_is_released_at_once() -> None:
    shard, _, _ = new_shard()
    notes: list[str] = []
    shard.effect(Probe("a", notes))
    assert notes == ["a"]


def test_a_read_waits_until_what_it_read_is_durable() -> None:
    shard, queue, _ = new_shard()
    notes: list[str] = []
    first = submit(shard, queue)
    one = shard.take_batch()
    second = submit(shard, queue)
    for name, job_id in (("first", first), ("second", second)):
        job = shard.table.get(job_id)
        assert job is not None
        shard.effect_at(job["lsn"], Probe(name, notes))
    assert one is not None
    shard.on_committed(one[0])
    assert notes == ["first"]
    two = shard.take_batch()
    assert two is not None
    shard.on_committed(two[0])
    assert notes == ["first", "second"]
    shard.effect_at(two[0], Probe("again", notes))
    assert notes[-1] == "again"


def test_a_fenced_shard_refuses_everything_and_forgets() -> None:
    shard, queue, lost = new_shard()
    notes: list[str] = []
    submit(shard, queue)
    shard.effect(Probe("flying", notes))
    batch = shard.take_batch()
    job_id = submit(shard, queue)
    shard.effect(Probe("gathering", notes))
    watcher = Promise()
    assert shard.watch(job_id, watcher)
    shard.on_fenced()
    assert notes == ["no flying", "no gathering"]
    assert isinstance(watcher.error, ShardLost)
    assert lost == [shard]
    assert batch is not None
    shard.on_committed(batch[0])  # a late answer changes nothing
    assert shard.take_batch() is None
    shard.effect(Probe("later", notes))
    assert notes[-1] == "no later"
    assert shard.table.jobs_resident == 0


def test_what_is_on_its_way_to_the_log_is_in_doubt_when_the_node_gives_the_shard_up() -> None:
    shard, queue, _ = new_shard()
    flying, gathering = Promise(), Promise()
    submit(shard, queue)
    shard.effect(Reply(flying, 1))
    shard.take_batch()
    submit(shard, queue)
    shard.effect(Reply(gathering, 2))
    shard.give_up()
    errors = [flying.error, gathering.error]
    assert [isinstance(error, ShardLost) and error.in_doubt for error in errors] == [True, False]


def test_who_waits_for_a_job_is_woken_by_its_durable_end() -> None:
    shard, queue, _ = new_shard()
    job_id = submit(shard, queue)
    worker = shard.table.worker(WORKER)
    shard.table.start(queue, None, worker, 1, NOW_US)
    watcher, gone = Promise(), Promise()
    assert shard.watch(job_id, watcher)
    assert shard.watch(job_id, gone)
    shard.unwatch(job_id, gone)
    _, _, ended = shard.table.succeed(shard.table.running(worker)[0], NOW_US)
    shard.ended(ended)
    assert not watcher.done()
    batch = shard.take_batch()
    assert batch is not None
    shard.on_committed(batch[0])
    assert watcher.done()
    assert not gone.done()
    assert not shard.watch(b"x" * 16, Promise())


def test_a_join_acts_after_the_last_shard_and_refuses_once() -> None:
    notes: list[str] = []

    def join() -> Join:
        return Join(2, lambda: notes.append("done"), lambda error: notes.append("refused"))

    whole = join()
    whole.release()
    assert notes == []
    whole.release()
    assert notes == ["done"]
    broken = join()
    broken.refuse(ShardLost(1))
    broken.refuse(ShardLost(2))
    broken.release()
    assert notes == ["done", "refused"]


def test_callers_are_let_go_when_the_log_does_not_answer() -> None:
    shard, queue, _ = new_shard()
    notes: list[str] = []
    flying, gathering = Promise(), Promise()
    submit(shard, queue)
    shard.effect(Reply(flying, 1))
    shard.effect(Probe("send", notes))
    batch = shard.take_batch()
    submit(shard, queue)
    shard.effect(Reply(gathering, 2))
    error = Unavailable(1.0)
    shard.refuse_replies(error)
    assert flying.error is gathering.error is error
    assert batch is not None
    shard.on_committed(batch[0])
    assert flying.result is None
    assert notes == ["send"]


def test_an_effect_that_fails_does_not_keep_back_the_others() -> None:
    class Broken(Probe):
        def release(self) -> None:
            raise RuntimeError("broken")

    shard, queue, _ = new_shard()
    notes: list[str] = []
    submit(shard, queue)
    shard.effect(Broken("a", notes))
    shard.effect(Probe("b", notes))
    batch = shard.take_batch()
    assert batch is not None
    shard.on_committed(batch[0])
    assert notes == ["b"]
