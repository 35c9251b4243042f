"""The compiled shard table against its plain twin, and both against naive models.

`TableMachine` gives both tables the same random commands and compares every answer, log body and
projection. Besides, three models know less but are simple enough to be seen right: `Model` for
order, states and leases; `Tables` for what the database holds; and the log itself, from which a
fresh table must come to the same state.
"""

import copy
from types import ModuleType
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)

from taskforge_server.ext import table as compiled
from taskforge_server.ext.pure import table as pure
from taskforge_server.ext.pure import tablelog
from taskforge_server.ext.pure.tablelog import decode
from tests.support.machines import run_machine
from tests.support.table_model import (
    EPOCH_US,
    FINAL,
    FOREVER_US,
    HISTORY_ALL,
    HISTORY_FAILED,
    HISTORY_NONE,
    PROJECT,
    TYPES,
    Call,
    Model,
    ModelJob,
    after,
    calls,
    choose,
    is_marked,
    picks,
)
from tests.support.table_pages import PageRules, bring_first, bring_named
from tests.support.table_pair import (
    Pair,
    Projections,
    RefusedError,
    Tables,
    assert_same_jobs,
    job_ids,
)


class TableMachine(PageRules, RuleBasedStateMachine):
    """Random commands to both tables. The state of a run after a crash is that of its log."""

    subject: ModuleType = pure
    folded: set[type]
    """The kinds of events of all logs whose fold was compared with the live state."""

    @initialize(shard=st.sampled_from([0, 1, 4095]), seed=st.integers(0, 2**64 - 1), head=picks)
    def begin(self, shard: int, seed: int, head: int) -> None:
        self.shard, self.seed = shard, seed
        self.now_us = self.latest_us = EPOCH_US
        self.histories = [HISTORY_ALL, HISTORY_FAILED, HISTORY_NONE, HISTORY_ALL]
        self.first_lsn = head + 1
        self.pair = self.fresh_pair()
        self.pair.call("adopt", head)
        self.log: dict[int, bytes] = {}
        self.tables = Tables(watermark=head)
        self.under_way: list[Projections] = []
        self.model = Model()
        self.tokens: list[bytes] = []
        self.ids: list[bytes] = []
        self.ids_before = 0  # how many were given before the last crash
        self.finished: dict[bytes, dict[str, Any]] = {}
        self.read = None

    @rule(call=calls)
    def do(self, call: Call) -> None:
        getattr(self, call.name)(**call.args)
        self.pair.same_state()

    def fresh_pair(self) -> Pair:
        pair = Pair(self.subject, self.shard, self.seed)
        for index in range(4):
            self.define_queue(pair, index)
        for index in range(2):
            assert pair.call("worker", bytes([index]) * 16) == index
        return pair

    def define_queue(self, pair: Pair, index: int) -> None:
        timeout_ms = [0, 1_000, 0, 60_000][index]
        history = self.histories[index]
        # Limits that nothing reaches: the jobs stand in lanes of their groups, and start as ever.
        # No rate: at a takeover, and when the clock steps back, that is reached.
        limits = (1_000, 1_000, 0, 0, 0, 0, 0, 3) if index == 1 else None
        args = (bytes([index]) * 16, PROJECT, f"queue-{index}", timeout_ms, history, 0, limits)
        assert pair.call("queue", *args) == index

    def tick(self, step_us: int) -> int:
        self.now_us += step_us
        self.latest_us = max(self.latest_us, self.now_us)
        return self.now_us

    def token(self, pick: int) -> bytes:
        """Mostly a current lease, sometimes an earlier one of a running job, or any."""
        current = [job.token for job in self.model.jobs.values() if job.status == "processing"]
        if pick % 8 == 7:
            running = {token[:16] for token in current}
            stale = [t for t in self.tokens if t[:16] in running and t not in current]
            current = stale or self.tokens
        return choose(current or self.tokens, pick // 8, bytes(24))

    def job_id(self, pick: int, *statuses: str) -> bytes:
        """Mostly a job in one of those states, sometimes any that ever was."""
        known = {job_id: job.status for job_id, job in self.model.jobs.items()}
        known |= {job_id: job["status"] for job_id, job in self.finished.items()}
        fit = [job_id for job_id, status in known.items() if status in statuses]
        return choose(fit if fit and pick % 8 != 7 else self.ids, pick // 8, bytes(16))

    # --- decisions ------------------------------------------------------------------------------

    def submit(self, queue: int, jobs: list[dict[str, Any]], step_us: int) -> None:
        now_us = self.tick(step_us)
        jobs = [job | {"due_us": after(job["due_us"], now_us - 1)} for job in jobs]
        job_ids = self.pair.submit(queue, jobs, now_us)
        assert len(job_ids) == 16 * len(jobs)
        for index, job in enumerate(jobs):
            job_id = job_ids[16 * index : 16 * index + 16]
            before = self.ids[self.ids_before :]
            assert not before or job_id > max(before), "ids do not ascend"
            assert job_id not in self.ids, "an id was given twice"
            self.ids.append(job_id)
            self.model.jobs[job_id] = ModelJob(
                queue=queue,
                job_type=job["job_type"],
                priority=job["priority"],
                status="scheduled" if job["due_us"] > now_us else "pending",
                due_us=job["due_us"],
            )

    def start(
        self, queue: int, types: frozenset[str] | None, worker: int, most: int, step_us: int
    ) -> None:
        now_us = self.tick(step_us)
        if not self.model.start(queue, None, 1):  # rather a queue that has something
            queue = next((q for q in range(4) if self.model.start(q, None, 1)), queue)
        lease = self.pair.oracle.gathering_lsn.to_bytes(8, "big")
        expected = self.model.start(queue, types, most, lease)
        bounded = self.bounded(queue, types)
        frame, count = self.pair.call("start", queue, types, worker, most, now_us)
        assert count == len(expected) or (bounded and count < len(expected))
        expected = expected[:count]
        if not count:
            assert frame == b""
            return
        started = [job_id + lease for job_id in expected]
        assert msgpack.unpackb(frame, strict_map_key=False)[4] == b"".join(started)
        for token in started:
            assert token not in self.tokens, "two leases of one name"
            self.tokens.append(token)
            job = self.model.jobs[token[:16]]
            job.status, job.token = "processing", token

    def succeed(self, chosen: list[int], step_us: int) -> None:
        tokens = [self.token(pick) for pick in chosen]
        stale = []
        for token in tokens:
            job = self.model.leased(token)
            if job is None:
                stale.append(token)
            else:
                job.status = "succeeded"
        accepted, refused, _ = self.pair.call("succeed", b"".join(tokens), self.tick(step_us))
        assert (accepted, refused) == (len(tokens) - len(stale), b"".join(stale))

    def finish(self, command: str, pick: int, status: str, step_us: int, *args: Any) -> bool:
        token = self.token(pick)
        job = self.model.leased(token)
        accepted: bool = self.pair.call(command, token, *args, self.tick(step_us))
        assert accepted == (job is not None)
        if job is not None:
            job.status = status
        return accepted

    def succeed_with(self, pick: int, result: bytes | None, step_us: int) -> None:
        self.finish("succeed_with", pick, "succeeded", step_us, result)

    def retried(self, pick: int, delay_us: int, error: bytes, step_us: int) -> None:
        due_us = self.now_us + delay_us
        job = self.model.leased(self.token(pick))
        if self.finish("retried", pick, "scheduled", step_us, due_us, error) and job:
            job.due_us = due_us

    def failed(self, pick: int, reason: str, error: bytes, step_us: int) -> None:
        self.finish("failed", pick, "failed", step_us, reason, error)

    def released(self, pick: int, error: bytes, step_us: int) -> None:
        self.finish("released", pick, "pending", step_us, error)

    def returned(self, pick: int, error: bytes, delay_us: int, step_us: int) -> None:
        token, now_us = self.token(pick), self.tick(step_us)
        before, job = self.pair.oracle.get(token[:16]), self.model.leased(token)
        due_us = after(delay_us, now_us)
        assert self.pair.call("returned", token, error, now_us, due_us) == (job is not None)
        if job is None:
            return
        job.status = "scheduled" if due_us else "pending"
        job.due_us = due_us or job.due_us
        found = self.pair.oracle.get(before["id"])
        counted = ("attempt", "crashes", "returns")
        assert [found[name] - before[name] for name in counted] == [0, 0, 1]

    def stopped(self, pick: int, error: bytes, step_us: int) -> None:
        self.finish("stopped", pick, "cancelled", step_us, "no longer wanted", error)

    def change(self, pick: int, told: dict[str, Any], step_us: int) -> None:
        job_id = self.job_id(pick, "pending", "scheduled", "processing")
        self.fault_in(job_id)
        now_us = self.tick(step_us)
        told = dict(told)
        for name in ("due_us", "deadline_us"):
            if name in told:
                told[name] = after(told[name], now_us)
        before, job = self.pair.oracle.get(job_id), self.model.jobs.get(job_id)
        running = job is not None and job.status == "processing"
        no_use = {"due_us", "priority", "payload"} if running else {"deadline_us"}
        legal = job is None or (job.status not in FINAL and not no_use & told.keys())
        try:
            assert self.pair.call("change", job_id, now_us, **told) == (job is not None)
            assert legal
        except RefusedError as raised:
            if legal or raised.name != "TransitionError":
                raise
            return
        if job is None:
            return
        job.priority = told.get("priority", job.priority)
        if "due_us" in told:
            job.due_us = told["due_us"]
            job.status = "scheduled" if job.due_us > now_us else "pending"
        found = self.pair.oracle.get(job_id)
        if told.get("options") == b"":
            told["options"] = None
        changed = {name for name in before if before[name] != found[name]}
        assert changed <= {*told, "lsn", "updated_us", "status"}
        assert all(found[name] == value for name, value in told.items())

    def take_marked(self) -> None:
        """Jobs that live and have something to look at, each once; none that has not."""
        marked = self.pair.call("take_marked", 2)
        while len(marked) < 1_000 and (more := self.pair.call("take_marked", 2)):
            marked += more
        assert len({job_id for job_id, _ in marked}) == len(marked)
        for job_id, options in marked:
            assert self.model.jobs[job_id].status not in FINAL
            assert "more" in msgpack.unpackb(options)
            assert self.pair.oracle.get(job_id)["options"] == options
        assert self.pair.call("take_marked") == []

    def cancelled(self, pick: int, step_us: int) -> None:
        job_id = self.job_id(pick, "pending", "scheduled")
        known = self.pair.oracle.get(job_id)
        try:
            done = self.pair.call("cancelled", job_id, "no longer wanted", self.tick(step_us))
            assert done == (known is not None)
            if known is not None:
                assert self.model.jobs[job_id].status in ("pending", "scheduled")
                self.model.jobs[job_id].status = "cancelled"
        except RefusedError as raised:
            if raised.name != "TransitionError":
                raise
            status = self.model.jobs[job_id].status
            assert status in {"processing", *FINAL}

    def requeue(self, pick: int, step_us: int) -> None:
        """From memory while it is there, otherwise as it ended."""
        job_id = self.job_id(pick, "failed", "cancelled")
        self.fault_in(job_id)
        snapshot = self.pair.oracle.get(job_id) or self.finished.get(job_id)
        if snapshot is None:
            return
        legal = snapshot["status"] in ("failed", "cancelled")
        try:
            self.pair.call("requeue", snapshot, self.tick(step_us))
            assert legal
            earlier = self.model.jobs.get(job_id)
            self.model.jobs[job_id] = ModelJob(
                queue=snapshot["queue_id"][0],
                job_type=snapshot["job_type"],
                priority=snapshot["priority"],
                status="pending",
                token=earlier.token if earlier is not None else b"",
            )
        except RefusedError as raised:
            if legal or raised.name != "TransitionError":
                raise

    def keyed(self, key: str, pick: int, step_us: int) -> None:
        job_ids = self.job_id(pick)
        self.pair.call("keyed", PROJECT, key, b"h" * 32, job_ids, self.tick(step_us))

    def owned(self, epoch: int, step_us: int) -> None:
        self.pair.call("owned", "node-1", epoch, self.tick(step_us))

    # --- time, leases, questions ----------------------------------------------------------------

    def due(self, step_us: int, parts: bool) -> None:
        """All at once, or those of each time by themselves: which of one time go first is open."""
        now_us = self.tick(step_us)
        here = self.here
        known = [job for job_id, job in self.model.jobs.items() if job_id in here]
        jobs = [job for job in known if job.status == "scheduled"]
        times = sorted(job.due_us for job in jobs if job.due_us <= now_us)
        for time_us in sorted(set(times)) if parts else []:
            count = times.count(time_us)
            queues = self.model.due(time_us, here)
            assert self.pair.call("due", now_us, count) == (count, queues)
        left = len(jobs) if not parts else 0
        queues = self.model.due(now_us, here)
        assert self.pair.call("due", now_us, left) == (0 if parts else len(times), queues)

    def watch(self, pick: int, on: bool) -> None:
        self.pair.call("watch", self.job_id(pick), on)

    def change_queue(self, history: int) -> None:
        """Only that of the last queue; the others keep theirs for the checks of the tables."""
        self.histories[3] = history
        self.define_queue(self.pair, 3)

    def ask(
        self, queue: int, types: frozenset[str] | None, worker: int, pick: int, step_us: int
    ) -> None:
        jobs = [job for job in self.model.jobs.values() if job.queue == queue]
        counts = [
            len([job for job in jobs if job.status == status])
            for status in ("pending", "scheduled", "processing")
        ]
        assert self.pair.call("counts", queue) == tuple(counts)
        ready = len(self.model.start(queue, types, len(jobs), here=self.here))
        assert self.pair.call("ready", queue, types) == ready
        assert self.pair.call("rests", queue) == self.rests(queue)
        self.pair.call("running", worker)
        self.pair.call("expired", self.now_us + step_us)
        self.pair.call("next_due_us")
        job_id = self.job_id(pick)
        self.pair.call("get", job_id)
        self.pair.call("peek", job_id)
        walked = [self.open_jobs(table, queue) for table in (self.pair.oracle, self.pair.subject)]
        opened = {
            job_id
            for job_id, job in self.model.jobs.items()
            if job.queue == queue and job.status not in FINAL
        }
        opened &= self.here
        assert walked == [opened, opened]
        self.pair.call("executions", job_id)
        token = self.token(pick)
        assert self.pair.call("holds", token) == bool(self.model.leased(token))

    @staticmethod
    def open_jobs(table: Any, queue: int) -> set[bytes]:
        found: list[bytes] = []
        place = 0
        while place >= 0:
            ids, place = table.open_jobs(queue, place, 2, 700)
            assert len(ids) <= 2
            found += ids
        assert len(set(found)) == len(found)
        return set(found)

    def rests(self, queue: int) -> bool:
        """Whether the first job of some type was started in the batch that gathers."""
        lease = self.pair.oracle.gathering_lsn.to_bytes(8, "big")
        here = self.here
        first = (self.model.start(queue, frozenset({name}), 1, here=here) for name in TYPES)
        return any(ids and self.model.jobs[ids[0]].token == ids[0] + lease for ids in first)

    # --- the log and the tables -----------------------------------------------------------------

    def take_batch(self) -> None:
        taken = self.pair.take_batch()
        if taken is not None:
            lsn, count, body = taken
            assert count == len(decode(body).events)
            self.log[lsn] = body

    def committed(self, behind: int, take: bool) -> None:
        if take:
            self.take_batch()
        lsn = self.pair.oracle.gathering_lsn - 1 - behind
        self.pair.call("committed", lsn)

    def collect(self, rows_max: int, age_us: int) -> None:
        projections = self.pair.collect(rows_max, self.now_us - age_us)
        if projections is None:
            return
        if not projections.oracle.overlaps:
            earlier = {job_id for p in self.under_way for job_id in job_ids(p.oracle)}
            assert not earlier & job_ids(projections.oracle), "a job of an earlier projection"
        self.under_way.append(projections)

    def projected(self, whole: bool) -> None:
        if not self.under_way:
            return
        projections = self.under_way.pop(0)
        before = {job["id"]: job for job in self.pair.oracle.snapshot()}
        self.tables.apply(projections.oracle)
        self.pair.projected(projections, whole)
        self.freed(before)

    def write(self, age_us: int) -> None:
        """All the way into the tables."""
        self.committed(behind=0, take=True)
        self.collect(1000, age_us)
        while self.under_way:
            self.projected(whole=True)

    # --- recovery -------------------------------------------------------------------------------

    def settle_log(self) -> None:
        self.take_batch()
        self.committed(behind=0, take=False)

    def recovered(
        self, tables: Tables, log: dict[int, bytes], file: bool = False, first: int | None = None
    ) -> Pair:
        """With `first` only so many jobs of each lane come, besides those that the log names."""
        pair = self.fresh_pair()
        if first is None:
            pair.call("load", tables.unfinished(file))
        else:
            pair.call("load", b"".join(row.data for row in tables.open_rows("processing")))
        tail = {lsn: body for lsn, body in log.items() if lsn > tables.watermark}
        for at in range(0, len(tail), 3):  # by portions
            portion = [*tail.items()][at : at + 3]
            if first is not None:
                bring_named(pair, tables, [body for _, body in portion])
            for lsn, body in portion:
                pair.call("replay", lsn, body)
                pair.call("take_submitted")
        if first is not None:
            bring_first(pair, tables, first)
        pair.call("adopt", max([*log, tables.watermark]))
        marked = {job_id for job_id, _ in pair.call("take_marked")}
        assert marked == {job["id"] for job in pair.oracle.snapshot() if is_marked(job)}
        pair.same_state()
        return pair

    def all_due(self, other: Pair) -> None:
        """Due jobs wait in their lanes on both sides: that they are due is no event."""
        self.model.due(self.latest_us, self.here)
        self.pair.call("due", self.latest_us, len(self.ids))
        other.call("due", self.latest_us, len(self.ids))

    def fold_of_the_log_is_the_live_state(self) -> None:
        """No key may differ; the fold also knows jobs that ended and were freed."""
        self.everything_here()
        self.settle_log()
        fold = self.recovered(Tables(watermark=self.first_lsn - 1), self.log)
        self.all_due(fold)
        live = {job["id"]: job for job in self.pair.oracle.snapshot()}
        folded = {job["id"]: job for job in fold.oracle.snapshot()}
        still = [job for job_id, job in folded.items() if job_id in live]
        assert_same_jobs("fold of the log", list(live.values()), still)
        gone = [job for job_id, job in folded.items() if job_id not in live]
        assert {job["status"] for job in gone} <= FINAL
        self.same_order(fold)
        for body in self.log.values():
            self.folded.update(type(event) for event in decode(body).events)

    def same_order(self, other: Pair) -> None:
        """Whatever was lost and found: the waiting jobs start in the same order."""
        twin = copy.deepcopy(self.pair.oracle)
        for queue in range(4):
            frame = twin.start(queue, None, 0, 1000, self.now_us)
            assert other.call("start", queue, None, 0, 1000, self.now_us) == frame

    def recovery_finds_the_live_state(self, applied: int, file: bool) -> None:
        """Unfinished jobs, whether or not projections under way had come through."""
        self.everything_here()
        self.settle_log()
        tables = copy.deepcopy(self.tables)
        for projections in self.under_way[:applied]:
            tables.apply(projections.oracle)
        new = self.recovered(tables, self.log, file)
        self.all_due(new)
        live = [job for job in self.pair.oracle.snapshot() if job["status"] not in FINAL]
        found = [job for job in new.oracle.snapshot() if job["status"] not in FINAL]
        assert_same_jobs("recovery", live, found)
        self.same_order(new)

    def crash(self, lost: int, applied: int, half: bool, first: int | None) -> None:
        """The table is gone, with what was gathered and maybe rows that were not known durable.

        Some projections under way had come through, of the next one perhaps its executions.
        """
        for projections in self.under_way[:applied]:
            self.tables.apply(projections.oracle)
            for job_id, _ in projections.oracle._jobs:
                self.finished.pop(job_id, None)  # the tables know a newer state
        if half and self.under_way[applied:]:
            self.tables.apply_executions(self.under_way[applied].oracle)
        self.under_way.clear()
        head = max(self.pair.oracle.committed_lsn, self.pair.oracle.gathering_lsn - 1 - lost)
        self.log = {lsn: body for lsn, body in self.log.items() if lsn <= head}
        # Nobody heard of what was not durable: its leases may be named anew.
        self.tokens = [t for t in self.tokens if int.from_bytes(t[16:], "big") <= head]
        self.seed += 1  # a table that is built anew has a seed of its own
        self.read, self.ending = None, False
        self.pair = self.recovered(self.tables, self.log, first=first)
        self.ids_before = len(self.ids)
        self.finished = {i: job for i, job in self.finished.items() if job["lsn"] <= head}
        self.model = Model()
        for job in self.known_after_crash():
            token = job["id"] + job["lease_lsn"].to_bytes(8, "big")
            self.model.jobs[job["id"]] = ModelJob(
                queue=job["queue_id"][0],
                job_type=job["job_type"],
                priority=job["priority"],
                status=job["status"],
                due_us=job["due_us"],
                token=token,
            )

    def known_after_crash(self) -> list[dict[str, Any]]:
        """What memory has, and what only the tables have."""
        jobs: list[dict[str, Any]] = self.pair.oracle.snapshot()
        here = {job["id"] for job in jobs}
        rows = [row.values for row in self.tables.open_rows("pending", "scheduled")]
        away = [
            row | {"due_us": row["scheduled_for"] or 0} for row in rows if row["id"] not in here
        ]
        return jobs + [row | {"lease_lsn": 0} for row in away]

    # --- what always holds ----------------------------------------------------------------------

    def teardown(self) -> None:
        """At the end everything is written, and the tables know what memory knows."""
        if not hasattr(self, "pair"):
            return
        self.fold_of_the_log_is_the_live_state()
        while (projections := self.pair.collect(1000, FOREVER_US)) is not None:
            self.under_way.append(projections)
        while self.under_way:
            self.projected(whole=True)
        self.pair.same_state()
        assert self.pair.oracle.unprojected == 0
        assert self.tables.watermark == self.pair.oracle.committed_lsn
        live = self.pair.oracle.snapshot()
        assert not [job for job in live if job["status"] in FINAL]
        new = self.recovered(self.tables, {})
        self.all_due(new)
        assert_same_jobs("rows and memory", self.pair.oracle.snapshot(), new.oracle.snapshot())
        self.check_tables()

    def check_tables(self) -> None:
        """Rows agree with the queue's history, executions with the attempts of their job."""
        executions: dict[bytes, list[dict[str, Any]]] = {}
        for execution in self.tables.executions.values():
            executions.setdefault(execution.values["job_id"], []).append(execution.values)
        for job_id, row in self.tables.jobs.items():
            of_job = executions.pop(job_id, [])
            # What is kept of a queue whose history changed on the way depends on when rows were
            # written, before the change or after it: but nothing is left without its job.
            if row.values["queue_id"][0] == 3:
                continue
            started = [run["attempt_number"] for run in of_job if run["status"] == "started"]
            running = row.values["status"] == "processing"
            assert started in ([], [row.values["attempts"]] if running else [])
            self.check_job(row.values, of_job)
        assert not executions, "executions of jobs that have no row"

    def check_job(self, job: dict[str, Any], executions: list[dict[str, Any]]) -> None:
        history = self.histories[job["queue_id"][0]]
        if job["status"] in FINAL and not job["keep"]:
            assert history != HISTORY_NONE
            assert history == HISTORY_ALL or job["status"] != "succeeded"
        if history != HISTORY_NONE:
            numbers = sorted(execution["attempt_number"] for execution in executions)
            assert numbers == list(range(1, job["attempts"] + 1))
        started = [e["attempt_number"] for e in executions if e["status"] == "started"]
        running = job["status"] == "processing" and history != HISTORY_NONE
        assert started == ([job["attempts"]] if running else [])


def run(
    subject: ModuleType,
    examples: int,
    steps: int = 60,
    base: type[TableMachine] = TableMachine,
) -> set[type]:
    """The kinds of events of which a fold was compared with the live state."""
    folded: set[type] = set()
    machine = type("Machine", (base,), {"subject": subject, "folded": folded})
    run_machine(machine, examples, steps)
    return folded


def what_is_rare(folded: set[type]) -> None:
    """One event of each kind: examples may leave one out."""
    machine: Any = type("Machine", (TableMachine,), {"subject": compiled, "folded": folded})()
    machine.begin(shard=1, seed=7, head=0)
    job = {"job_type": TYPES[0], "payload": b"{}", "priority": 0, "due_us": 0, "timeout_ms": 0}
    job |= {"max_attempts": 0, "options": None}
    told: dict[str, Any] = {"pick": 0, "step_us": 1}
    machine.submit(queue=0, jobs=[job] * 9, step_us=1)
    machine.start(queue=0, types=None, worker=0, most=7, step_us=1)
    machine.succeed(chosen=[0], step_us=1)
    machine.retried(**told, delay_us=1, error=b"{}")
    machine.failed(**told, reason="error", error=b"{}")
    machine.released(**told, error=b"{}")
    machine.returned(**told, error=b"{}", delay_us=0)
    machine.stopped(**told, error=b"{}")
    machine.change(**told, told={"priority": 3})
    machine.cancelled(**told)
    machine.requeue(**told)
    machine.keyed(**told, key="a")
    machine.owned(epoch=2, step_us=1)
    machine.fold_of_the_log_is_the_live_state()


def test_plain_table_agrees_with_the_models() -> None:
    run(pure, examples=40)


def test_compiled_table_agrees_with_the_plain_one() -> None:
    """And the fold of a log with events of every kind is the live state."""
    folded = run(compiled, examples=100)
    what_is_rare(folded)
    assert folded == {*get_args(tablelog.Event)}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_compiled_table_agrees_with_the_plain_one_at_length() -> None:
    run(compiled, examples=5_000, steps=150)
