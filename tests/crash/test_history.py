"""The checker by example: a sound run, and one broken promise at a time."""

from collections.abc import Callable

import pytest

from tests.support.history import (
    Acked,
    Call,
    End,
    Event,
    ExecutionRow,
    JobRow,
    Rule,
    Run,
    Start,
    check,
    read_client,
    read_handlers,
)


def sound() -> Run:
    """Job A succeeded in its second attempt, after a crash; job B failed for good."""
    return Run(
        calls={
            "1": Call("1", ("quick-a", "doomed-b"), "key", [("A", "B")]),
            "2": Call("2", ("quick-c",), None),
        },
        starts=[Start("A", 2, 10), Start("A", 4, 30), Start("B", 2, 10)],
        ends=[End("A", 4, "ok", 31), End("B", 2, "fatal", 11)],
        acked=[Acked("A", 4, True, 40), Acked("B", 2, False, 20)],
        lsns={0: [1, 2, 3, 4, 5]},
        events=[
            Event(0, 1, "submitted", "A"),
            Event(0, 1, "submitted", "B"),
            Event(0, 2, "started", "A", 1),
            Event(0, 2, "started", "B", 1),
            Event(0, 3, "released", "A"),
            Event(0, 3, "failed", "B"),
            Event(0, 4, "started", "A", 2),
            Event(0, 5, "succeeded", "A"),
        ],
        jobs=[
            JobRow("A", "quick-a", "succeeded", 2),
            JobRow("B", "doomed-b", "failed", 1, "not_retryable"),
        ],
        executions=[
            ExecutionRow("A", 1, "retrying"),
            ExecutionRow("A", 2, "succeeded"),
            ExecutionRow("B", 1, "failed"),
        ],
    )


def test_a_sound_run() -> None:
    assert check(sound()) == []


def test_a_call_without_an_answer_may_have_happened() -> None:
    run = sound()
    run.events += [
        Event(1, 1, "submitted", "C"),
        Event(1, 2, "started", "C", 1),
        Event(1, 3, "succeeded", "C"),
    ]
    run.lsns[1] = [1, 2, 3]
    run.starts.append(Start("C", 2, 10))
    run.ends.append(End("C", 2, "ok", 11))
    run.jobs.append(JobRow("C", "quick-c", "succeeded", 1))
    run.executions.append(ExecutionRow("C", 1, "succeeded"))
    assert check(run) == []


def lost(run: Run) -> None:
    del run.jobs[0]


def never_logged(run: Run) -> None:
    run.calls["2"].answers.append(("C",))


def unfinished(run: Run) -> None:
    run.jobs[0] = JobRow("A", "quick-a", "processing", 2)


def failed_instead(run: Run) -> None:
    run.jobs[0] = JobRow("A", "quick-a", "failed", 2, "attempts_exhausted")


def never_ran(run: Run) -> None:
    del run.ends[0]


def two_executions(run: Run) -> None:
    run.executions[0] = ExecutionRow("A", 1, "succeeded")


def two_ends_in_the_log(run: Run) -> None:
    run.events.append(Event(0, 6, "succeeded", "A"))
    run.lsns[0].append(6)


def two_leases_accepted(run: Run) -> None:
    run.acked.append(Acked("A", 2, True, 41))


def started_after_the_ack(run: Run) -> None:
    run.starts[1] = Start("A", 4, 41)


def started_after_the_end(run: Run) -> None:
    run.events.append(Event(0, 6, "started", "A", 3))
    run.lsns[0].append(6)


def old_lease_accepted(run: Run) -> None:
    run.acked[0] = Acked("A", 2, True, 40)


def given_out_before_it_was_durable(run: Run) -> None:
    run.starts.append(Start("B", 9, 15))


def acknowledged_before_it_was_durable(run: Run) -> None:
    run.events.pop()
    run.lsns[0].pop()


def gap(run: Run) -> None:
    run.lsns[0].remove(3)


def illegal_move(run: Run) -> None:
    run.events.insert(0, Event(0, 1, "succeeded", "A"))


def attempt_skipped(run: Run) -> None:
    run.events[6] = Event(0, 4, "started", "A", 3)


def attempts_differ(run: Run) -> None:
    run.jobs[0] = JobRow("A", "quick-a", "succeeded", 1)


def execution_missing(run: Run) -> None:
    del run.executions[0]


def row_without_log(run: Run) -> None:
    run.jobs.append(JobRow("C", "quick-c", "pending", 0))


def same_job_twice(run: Run) -> None:
    run.jobs.append(JobRow("D", "quick-a", "succeeded", 1))


def other_answer_for_the_key(run: Run) -> None:
    run.calls["1"].answers.append(("A", "D"))


def nobody_asked(run: Run) -> None:
    run.jobs.append(JobRow("D", "quick-d", "succeeded", 1))


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lost, Rule.LOST),
        (never_logged, Rule.EFFECT_WITHOUT_CAUSE),
        (unfinished, Rule.UNFINISHED),
        (failed_instead, Rule.UNFINISHED),
        (never_ran, Rule.RAN),
        (two_executions, Rule.COMPLETED_TWICE),
        (two_ends_in_the_log, Rule.COMPLETED_TWICE),
        (two_leases_accepted, Rule.COMPLETED_TWICE),
        (started_after_the_ack, Rule.STARTED_AFTER_END),
        (started_after_the_end, Rule.LOG_BROKEN),
        (old_lease_accepted, Rule.STALE_ACCEPTED),
        (given_out_before_it_was_durable, Rule.EFFECT_WITHOUT_CAUSE),
        (acknowledged_before_it_was_durable, Rule.EFFECT_WITHOUT_CAUSE),
        (gap, Rule.LOG_BROKEN),
        (illegal_move, Rule.LOG_BROKEN),
        (attempt_skipped, Rule.LOG_BROKEN),
        (attempts_differ, Rule.TABLES_DIFFER),
        (execution_missing, Rule.TABLES_DIFFER),
        (row_without_log, Rule.TABLES_DIFFER),
        (same_job_twice, Rule.SUBMITTED_TWICE),
        (other_answer_for_the_key, Rule.SUBMITTED_TWICE),
        (nobody_asked, Rule.PHANTOM),
    ],
)
def test_a_broken_promise_is_found(damage: Callable[[Run], None], rule: Rule) -> None:
    run = sound()
    damage(run)
    assert rule in {violation.rule for violation in check(run)}


def test_histories_are_read_back() -> None:
    run = Run()
    read_client(
        run,
        [
            '{"e": "call", "at": 1, "call": "1", "marks": ["quick-a"], "key": null}\n',
            '{"e": "unknown", "at": 2, "call": "1", "why": "gone"}\n',
            '{"e": "acked", "at": 3, "call": "1", "ids": ["A"]}\n',
        ],
    )
    read_handlers(
        run,
        [
            '{"e": "start", "at": 4, "attempt": 1, "mark": "quick-a", "job": "A", "lease": 2}\n',
            '{"e": "end", "at": 5, "outcome": "ok", "job": "A", "lease": 2}\n',
            '{"e": "acked", "at": 6, "ok": true, "job": "A", "lease": 2}\n',
            '{"e": "stale", "at": 7, "ok": false, "job": "A", "lease": 1}\n',
            '{"e": "start", "at": 8, "cut',
        ],
    )
    assert run.calls == {"1": Call("1", ("quick-a",), None, [("A",)])}
    assert run.starts == [Start("A", 2, 4)]
    assert run.ends == [End("A", 2, "ok", 5)]
    assert run.acked == [Acked("A", 2, True, 6)]
    assert run.stale == 1
