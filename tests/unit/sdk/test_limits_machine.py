"""Soft limits, hard ones, more time and cancellation as the worker keeps them: against plain words.

Handlers of three kinds wait: one ends at its soft limit, one goes on, one runs in a thread. Time is
the machine's own. After each step every handler knows what it should, and has ended how it should.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from taskforge import Context, SoftTimeout, task
from tests.support.machines import run_machine
from tests.support.stub_stream import token
from tests.support.table_model import Call, call, weighted
from tests.unit.sdk.test_pool import Bench, payload, until

OPEN_MAX = 4
"""As many as there are threads: every handler begins at once."""
KINDS = ("obeys", "goes_on", "threaded")


@dataclass
class Here:
    """A handler that has begun."""

    context: Context
    let_go: Callable[[], None]
    told: int = 0
    """So many SoftTimeouts."""


BEGUN: dict[int, Here] = {}


async def wait(context: Context, number: int, on_soft: str | None) -> str:
    gate = asyncio.Event()
    here = BEGUN[number] = Here(context, gate.set)
    while not gate.is_set():
        try:
            await gate.wait()
        except SoftTimeout:
            here.told += 1
            if on_soft is not None:
                return on_soft
    return "let go"


@task
async def obeys(ctx: Context, number: int) -> str:
    return await wait(ctx, number, "early")


@task
async def goes_on(ctx: Context, number: int) -> str:
    return await wait(ctx, number, None)


@task
def threaded(ctx: Context, number: int) -> str:
    gate = threading.Event()
    BEGUN[number] = Here(ctx, gate.set)
    gate.wait()
    return "let go"


@dataclass
class Handler:
    """What should be; times are seconds, 0: none."""

    kind: str
    soft_s: float
    hard_s: float
    soft_over: bool = False
    asked: bool = False
    extended_s: list[float] = field(default_factory=list)
    end: str | None = None

    def pass_time(self, now_s: float) -> None:
        if 0 < self.hard_s <= now_s:
            self.end = "timeout"
        elif 0 < self.soft_s <= now_s and not self.soft_over:
            self.soft_over = True
            if self.kind == "obeys":
                self.end = "early"

    def cancel(self) -> None:
        """A thread cannot be stopped: it is told, and its end counts."""
        if self.kind == "threaded":
            self.asked = True
        else:
            self.end = "cancelled"

    def extend(self, more_s: float, now_s: float) -> None:
        if not self.asked and 0 < self.hard_s < now_s + more_s:
            self.hard_s = now_s + more_s
            self.extended_s.append(self.hard_s)


limits = st.fixed_dictionaries(
    {
        "soft_ms": st.sampled_from([0, 1_000, 3_000, 10_000]),
        "own_soft": st.booleans(),
        "hard_ms": st.sampled_from([0, 2_000, 3_000, 20_000]),
    }
)
picks = st.integers(0, 1_000)
calls: st.SearchStrategy[Call] = weighted(
    *call(4, "feed", kind=st.sampled_from(KINDS), told=limits),
    *call(5, "pass_time", step_s=st.sampled_from([0.0, 0.5, 1.0, 4.0, 15.0])),
    *call(1, "cancel", pick=picks),
    *call(2, "extend", pick=picks, more_s=st.sampled_from([0.5, 2.0, 30.0])),
    *call(1, "let_go", pick=picks),
)


class LimitsMachine(RuleBasedStateMachine):
    """A pool, some handlers that run, and its sweep."""

    now_s: ClassVar[float] = 1_000.0
    seen: ClassVar[Counter[str]]
    """What came about, over all runs."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.models: dict[int, Handler] = {}
        self.extended: dict[bytes, list[float]] = {}
        self.run(self.open())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(coroutine)

    async def open(self) -> None:
        self.bench = Bench([obeys, goes_on, threaded], threads=OPEN_MAX)
        self.bench.pool._on_extend = lambda token, at: self.extended.setdefault(token, []).append(
            at
        )

    @rule(call=calls)
    def do(self, call: Call) -> None:
        self.run(self._do(call))

    async def _do(self, call: Call) -> None:
        await getattr(self, call.name)(**call.args)
        for number, model in self.models.items():
            if model.end is not None and model.kind == "threaded":
                BEGUN[number].let_go()  # its thread is free for another, whatever it says
        await until(lambda: all(map(self.is_as_modelled, self.models)))

    def pick(self, pick: int) -> int | None:
        running = [number for number, model in self.models.items() if model.end is None]
        return running[pick % len(running)] if running else None

    async def feed(self, kind: str, told: dict[str, Any]) -> None:
        if sum(model.end is None for model in self.models.values()) >= OPEN_MAX:
            return
        number = len(self.models)
        soft_s, hard_s = told["soft_ms"] / 1_000, told["hard_ms"] / 1_000
        extra: dict[str, Any] = {"timeout_ms": told["hard_ms"]}
        if told["own_soft"]:
            extra |= {"soft_timeout_ms": 1, "more": b'{"soft_timeout_s":%f}' % (soft_s or 0.001)}
        else:
            extra["soft_timeout_ms"] = told["soft_ms"]
        soft_s = (soft_s or 0.001) if told["own_soft"] else soft_s
        self.bench.feed([(token(number), kind, payload(number))], {0: extra})
        await until(lambda: number in BEGUN)
        self.models[number] = Handler(
            kind, soft_s and soft_s + self.now_s, hard_s and hard_s + self.now_s
        )

    async def pass_time(self, step_s: float) -> None:
        LimitsMachine.now_s += step_s
        self.bench.pool.sweep(self.now_s)
        for model in self.models.values():
            if model.end is None:
                model.pass_time(self.now_s)

    async def cancel(self, pick: int) -> None:
        if (number := self.pick(pick)) is not None:
            self.bench.pool.cancel({token(number)})
            self.models[number].cancel()

    async def extend(self, pick: int, more_s: float) -> None:
        if (number := self.pick(pick)) is not None:
            BEGUN[number].context.extend(more_s)
            self.models[number].extend(more_s, self.now_s)
            await asyncio.sleep(0)  # a thread's word comes a turn later

    async def let_go(self, pick: int) -> None:
        if (number := self.pick(pick)) is not None:
            BEGUN[number].let_go()
            self.models[number].end = "let go"

    # what holds

    def is_as_modelled(self, number: int) -> bool:
        here, model = BEGUN[number], self.models[number]
        self.bench.pool.settle()
        self.bench.pool.flush()
        _, said = self.bench.ended.get(token(number), (0, None))
        context, open_now = here.context, model.end is None
        return (
            (said["type"] if isinstance(said, dict) else said) == model.end
            and self.extended.get(token(number), []) == model.extended_s
            and (model.kind == "threaded" or here.told == model.soft_over)
            and (not open_now or context.soft_timed_out == model.soft_over)
            and (not open_now or context.cancelled == model.asked)
        )

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        for here in BEGUN.values():
            self.run(self.open_gate(here))
        self.run(self.bench.finish())
        self.run(self.close())
        self.runner.close()
        BEGUN.clear()
        self.seen.update(f"{model.kind} {model.end}" for model in self.models.values())
        self.seen["over and goes on"] += sum(
            model.soft_over and model.end == "let go" for model in self.models.values()
        )
        self.seen["extended"] += sum(len(model.extended_s) for model in self.models.values())

    async def open_gate(self, here: Here) -> None:
        here.let_go()

    async def close(self) -> None:
        self.bench.pool.close()


WANTED = {
    *(f"{kind} {end}" for kind in KINDS for end in ("let go", "timeout", None)),
    *("obeys early", "obeys cancelled", "goes_on cancelled", "extended", "over and goes on"),
}


def run(monkeypatch: pytest.MonkeyPatch, examples: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for module in ("taskforge.worker.pool", "taskforge.context"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: LimitsMachine.now_s)
    run_machine(type("Machine", (LimitsMachine,), {"seen": seen}), examples, steps)
    return seen


def what_is_rare(machine: LimitsMachine) -> None:
    """Each kind through each end: examples may leave one out."""
    machine.begin()
    told = {"soft_ms": 1_000, "own_soft": False, "hard_ms": 3_000}
    feeds = [Call("feed", {"kind": kind, "told": told}) for kind in KINDS]
    second, minute = (Call("pass_time", {"step_s": step_s}) for step_s in (1.0, 60.0))
    let_go, cancel = (Call(name, {"pick": 0}) for name in ("let_go", "cancel"))
    more = Call("extend", {"pick": 0, "more_s": 30.0})
    for feed in feeds:
        for calls in ([let_go], [second, let_go], [cancel], [second], [more, second], [minute]):
            for each in (feed, *calls, minute):
                machine.do(each)
    for feed in feeds:
        machine.do(feed)
    machine.teardown()


def test_limits_are_kept_as_the_guide_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, examples=40, steps=25)
    what_is_rare(type("Machine", (LimitsMachine,), {"seen": seen})())
    assert not {what for what in WANTED if not seen[what]}, seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_limits_are_kept_as_the_guide_says_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, examples=2_000, steps=40)
