"""How state machines run that play against a model, and which of them judges what.

What decides which job runs when is held against something plainer than itself, over random
commands, deaths and takeovers:

| what decides                                     | held to it by                                |
|--------------------------------------------------|----------------------------------------------|
| order, priority, types, due times, pages that    | `ext/test_table_machine`: two tables and a   |
| come and go; the log's fold for all events       | model                                        |
| limits and rates of queues and keys, fair keys   | `ext/test_table_limits_machine`: an oracle   |
|                                                  | that counts what runs and started            |
| retries, wishes, budgets, snoozes, crashes;      | `actors/test_life_machine`: a queue in plain |
| expiry, time limits, more time, cancels and      | words; what the worker is told besides       |
| their grace, changes, pauses, dead letters back  |                                              |
| soft limits, hard ones, cancels in the worker    | `sdk/test_limits_machine`: handlers that wait|
| ticks: zones, catch-up, overlap, jitter, changes,| `node/test_schedule_machine`: seconds that   |
| pauses; dead and double owners                   | fit, one by one                              |
| who waits for whom, each policy of an edge       | `node/test_graph_machine`: edges and ends;   |
|                                                  | `shard/test_waiting`: the index alone        |
| unique keys: who holds one, what takes its place | `shard/test_unique`: holders by their lives  |
| turns of projects and queues, parts of workers   | `actors/test_turns`, `actors/test_shares`    |

All stand in `tests/unit`. Which examples are tried depends on what else is loaded, so none of these
tests rests on chance: what must have come about, or the test proves nothing, is played once more by
hand where examples may leave it out (`what_is_rare`).
"""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_machine(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    """So many runs of so many steps. However slow a machine is that does other things besides:
    nothing depends on it."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
