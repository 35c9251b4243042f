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
| limits, cancels, lost leases, places in the      | `sdk/test_limits_machine`: handlers that     |
| worker                                           | wait, or linger                              |
| ticks: zones, catch-up, overlap, jitter, changes,| `node/test_schedule_machine`: seconds that   |
| pauses; dead and double owners                   | fit, one by one                              |
| who waits for whom, each policy of an edge; rows | `node/test_graph_machine`: edges and ends;   |
| that stay, and that go; what a retry waits for   | `shard/test_waiting`: the index alone;       |
|                                                  | `actors/test_dependencies`: turns that meet  |
| unique keys: who holds one, what takes its place | `shard/test_unique`: holders by their lives  |
| turns of projects and queues, parts of workers   | `actors/test_turns`, `actors/test_shares`    |

All stand in `tests/unit`. Which examples are tried depends on what else is loaded, so none of these
tests rests on chance: what must have come about, or the test proves nothing, is played once more by
hand where examples may leave it out (`what_is_rare`). What they are worth was tried with faults
put into the code, some fifty for graphs and forty for the worker: each is seen by a machine, by
what stands beside it in the table or by `integration/node/test_graphs`, or changes nothing that
anybody could see but for the time it takes.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, ClassVar, Self

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.support.table_model import Call


class LoopMachine(RuleBasedStateMachine):
    """A machine whose steps take place in an event loop of its own: each call is the method of
    that name, and then `settle` says what holds. `close` is its end."""

    seen: ClassVar[Counter[str]]
    """What came about, over all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.begun = False
        """It was opened: it is to be closed."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(coroutine)

    def take(self, call: Call) -> None:
        """One step."""
        self.run(self._take(call))

    async def _take(self, call: Call) -> None:
        await getattr(self, call.name)(**call.args)
        await self.settle()

    async def settle(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def teardown(self) -> None:
        if self.begun:
            self.run(self.close())
        self.runner.close()

    @classmethod
    def counting(cls, seen: Counter[str]) -> type[Self]:
        """The same that counts there."""
        return type(cls.__name__, (cls,), {"seen": seen})


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
