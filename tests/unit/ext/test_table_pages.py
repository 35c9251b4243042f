"""Jobs that leave memory and come back, far more often than in the machine of all commands; and how
those leave that stayed for a reading."""

from types import ModuleType

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from taskforge_server.ext import table as compiled
from taskforge_server.ext.pure import table as pure
from tests.support.table_bench import NOW_US, Bench
from tests.support.table_model import (
    TYPES,
    Call,
    ages_us,
    call,
    delays_us,
    errors,
    few,
    picks,
    weighted,
)
from tests.unit.ext import test_table_machine as machine

steps_us = st.sampled_from([0, 1_000, 3_000_000])
queues = st.sampled_from([0, 0, 1, 2])

new_jobs = st.fixed_dictionaries(
    {
        "job_type": st.sampled_from(TYPES[:2]),
        "payload": st.just(b"{}"),
        "priority": st.sampled_from([0, 0, 5, 9]),
        "due_us": st.one_of(st.just(0), st.just(0), delays_us),
        "timeout_ms": st.just(0),
        "max_attempts": st.just(0),
        "options": st.sampled_from([None, None, None, b"\x81\xa4more\xc4\x02{}"]),
    }
)

calls = weighted(
    *call(
        6, "submit", queue=queues, jobs=st.lists(new_jobs, min_size=2, max_size=8), step_us=steps_us
    ),
    *call(
        6,
        "start",
        queue=queues,
        types=st.sampled_from([None, frozenset(TYPES[:1]), frozenset(TYPES)]),
        worker=st.just(0),
        most=st.sampled_from([1, 2, 8]),
        step_us=steps_us,
    ),
    *call(3, "succeed", chosen=st.lists(picks, max_size=6), step_us=steps_us),
    *call(1, "retried", pick=picks, delay_us=delays_us, error=errors, step_us=steps_us),
    *call(1, "failed", pick=picks, reason=st.just("error"), error=errors, step_us=steps_us),
    *call(1, "released", pick=picks, error=errors, step_us=steps_us),
    *call(1, "cancelled", pick=picks, step_us=steps_us),
    *call(1, "requeue", pick=picks, step_us=steps_us),
    *call(
        1,
        "change",
        pick=picks,
        told=st.fixed_dictionaries({"priority": st.integers(0, 9)}),
        step_us=steps_us,
    ),
    *call(2, "due", step_us=steps_us, parts=st.booleans()),
    *call(1, "watch", pick=picks, on=st.booleans()),
    *call(1, "ask", queue=queues, types=st.none(), worker=st.just(0), pick=picks, step_us=steps_us),
    *call(1, "collect", rows_max=st.sampled_from([3, 1000]), age_us=ages_us),
    *call(3, "write", age_us=st.just(0)),
    *call(2, "projected", whole=st.booleans()),
    *call(
        8,
        "release",
        pick=picks,
        keep=st.sampled_from([0, 0, 1, 2]),
        most=st.sampled_from([99, 1]),
        written=st.booleans(),
    ),
    *call(1, "release_scheduled", after_us=delays_us),
    *call(4, "begin_reading", pick=picks, ahead=st.booleans()),
    *call(
        6,
        "end_reading",
        rows_max=st.integers(1, 4),
        cut=st.booleans(),
        leave=st.sampled_from([99, 1]),
    ),
    *call(1, "read_due", rows_max=few),
    *call(1, "bring", pick=picks),
    *call(1, "recovery_finds_the_live_state", applied=st.integers(0, 2), file=st.just(False)),
    *call(
        1,
        "crash",
        lost=st.integers(0, 2),
        applied=st.integers(0, 2),
        half=st.booleans(),
        first=few,
    ),
)


class PagingMachine(machine.TableMachine):
    """The machine of the table with little else than jobs that leave, come back and run."""

    @rule(calls=st.lists(calls, min_size=4, max_size=8))
    def do(self, calls: list[Call]) -> None:
        for one in calls:
            super().do(one)


def test_those_that_stayed_for_a_reading_leave_some_at_a_time(impl: ModuleType) -> None:
    """Meanwhile nothing is read, and what ends only now leaves with them."""
    bench = Bench(impl)
    *_, late = bench.submit(*({"priority": 9 - n} for n in range(6)))
    stale = b"".join(bench.project().jobs_copy)
    bench.table.begin_reading()
    tokens = bench.start(5)
    bench.table.succeed(b"".join(tokens), NOW_US)
    bench.project()
    assert bench.table.end_reading(0, 2) is False
    assert [bench.table.jobs_resident, bench.table.ended] == [4, 3]
    with pytest.raises(ValueError, match="being read already"):
        bench.table.begin_reading()
    with pytest.raises(ValueError, match="no rows"):
        bench.table.fault_in(stale)
    with pytest.raises(ValueError, match="nothing leaves"):
        bench.table.release(0, "mail", 0, 10)
    bench.table.succeed(b"".join(bench.start()), NOW_US)
    bench.project()
    assert bench.table.end_reading(0, 3) is False
    assert {job["id"] for job in bench.table.snapshot()} == {late}
    assert bench.table.end_reading(0, 3) is True
    assert bench.table.jobs_resident == 0
    with pytest.raises(ValueError, match="no rows"):
        bench.table.end_reading()


@pytest.mark.parametrize(("subject", "examples"), [(pure, 15), (compiled, 40)])
def test_jobs_leave_and_come_back(subject: ModuleType, examples: int) -> None:
    machine.run(subject, examples, 25, PagingMachine)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_jobs_leave_and_come_back_at_length() -> None:
    machine.run(compiled, 3_000, 40, PagingMachine)
