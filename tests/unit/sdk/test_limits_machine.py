"""Soft limits, hard ones, more time, cancellation and lost leases as the worker keeps them: against
plain words.

Handlers of five kinds wait: one ends at its soft limit, one goes on, one goes on even when it is
told to end, one knows of nothing, one runs in a thread. There are fewer places than jobs, so some
wait before they begin. Time is the machine's own. After each step every handler has begun or not,
knows what it should, and has ended how it should.
"""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from taskforge import Context, SoftTimeout, Task, task
from taskforge.worker import frames
from tests.support.machines import LoopMachine, run_machine
from tests.support.stub_stream import split, token
from tests.support.table_model import Call, call, weighted
from tests.unit.sdk.test_pool import Bench, payload, until

PLACES = 3
THREADS = 2
OPEN_MAX = 7
KINDS = ("obeys", "goes_on", "lingers", "plain", "threaded")
Reason = Literal["timeout", "cancelled", "lease_lost"]


@dataclass
class Here:
    """A handler that has begun."""

    context: Context | None
    let_go: Callable[[], None]
    soft_timeouts: int = 0
    stops: int = 0
    """So many cancellations."""


BEGUN: dict[int, Here] = {}


async def wait(
    context: Context | None, number: int, on_soft: str | None = None, *, lingers: bool = False
) -> str:
    gate = asyncio.Event()
    here = BEGUN[number] = Here(context, gate.set)
    stopped: asyncio.CancelledError | None = None
    while not gate.is_set():
        try:
            await gate.wait()
        except SoftTimeout:
            here.soft_timeouts += 1
            current = asyncio.current_task()
            assert current is not None
            assert not current.cancelling(), "it is to go on"
            if on_soft is not None:
                return on_soft
        except asyncio.CancelledError as stop:
            here.stops += 1
            if not lingers:
                raise
            stopped = stop
    if stopped is not None:
        raise stopped
    return "let go"


@task
async def obeys(ctx: Context, number: int) -> str:
    return await wait(ctx, number, "early")


@task
async def goes_on(ctx: Context, number: int) -> str:
    return await wait(ctx, number)


@task
async def lingers(ctx: Context, number: int) -> str:
    return await wait(ctx, number, lingers=True)


@task
async def plain(number: int) -> str:
    return await wait(None, number)


@task
def threaded(ctx: Context, number: int) -> str:
    gate = threading.Event()
    BEGUN[number] = Here(ctx, gate.set)
    gate.wait()
    return "let go"


ENDS: dict[str, tuple[int, Any]] = {
    "let go": (frames.SUCCEEDED, "let go"),
    "early": (frames.SUCCEEDED, "early"),
    "timeout": (frames.FAILED, ("timeout", True)),
    "cancelled": (frames.FAILED, ("cancelled", False)),
}
"""What is said of each end; of a job whose lease is lost nothing."""


@dataclass
class Handler:
    """What should be; times are seconds, 0: none."""

    kind: str
    soft_s: float
    hard_s: float
    taken: bool = False
    """It has a place, or it is a thread's to begin."""
    begun: bool = False
    soft_over: bool = False
    soft_timeouts: int = 0
    reason: Reason | None = None
    """What it was told why it should end: the first word stays."""
    extended_s: list[float] = field(default_factory=list)
    end: str | None = None

    @property
    def in_place(self) -> bool:
        return self.begun and self.end is None and self.kind != "threaded"

    @property
    def in_thread(self) -> bool:
        return self.taken and self.end is None and self.kind == "threaded"

    def pass_time(self, now_s: float, then: Reason | None) -> None:
        """`then`: what it is told before it can see that time has passed."""
        hard, soft = 0 < self.hard_s <= now_s, 0 < self.soft_s <= now_s and not self.soft_over
        if self.in_thread:
            self.soft_over |= soft
            if hard:
                self.stop("timeout")
        elif self.in_place and hard:
            self.stop("timeout")
        elif self.in_place and soft:
            self.soft_over = True
            if self.reason is None and then is None:
                self.soft_timeouts += 1
                if self.kind == "obeys":
                    self.end = "early"

    def stop(self, reason: Reason) -> None:
        """A thread cannot be stopped: it is told, and its end counts if somebody only asks for it.
        Whoever lingers ends later, for the first reason."""
        if self.end is not None:
            return
        if self.begun and self.reason is None:
            self.reason = reason
        asked = self.begun and self.in_thread and reason == "cancelled"
        lingers = self.begun and self.kind == "lingers"
        if not asked and not lingers:
            self.end = reason

    def let_go(self) -> None:
        self.end = self.reason if self.reason is not None and self.kind == "lingers" else "let go"

    def extend(self, more_s: float, now_s: float) -> None:
        if self.reason is None and 0 < self.hard_s < now_s + more_s:
            self.hard_s = now_s + more_s
            self.extended_s.append(self.hard_s)


limits = st.fixed_dictionaries(
    {
        "soft_ms": st.sampled_from([0, 1_000, 3_000, 10_000]),
        "own_soft": st.booleans(),
        "hard_ms": st.sampled_from([0, 2_000, 3_000, 20_000]),
    }
)
NO_LIMITS = {"soft_ms": 0, "own_soft": False, "hard_ms": 0}
picks = st.integers(0, 1_000)
kinds = st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)
calls: st.SearchStrategy[Call] = weighted(
    *call(4, "feed", kinds=kinds, told=limits),
    *call(
        6,
        "pass_time",
        step_s=st.sampled_from([1.0, 2.0, 0.5, 4.0, 15.0]),
        pick=picks,
        then=st.sampled_from([None, None, "cancelled", "lease_lost"]),
    ),
    *call(2, "stop", pick=picks, reason=st.sampled_from(["cancelled", "lease_lost"])),
    *call(2, "extend", pick=picks, more_s=st.sampled_from([0.5, 2.0, 30.0])),
    *call(3, "let_go", pick=picks),
)


class LimitsMachine(LoopMachine):
    """A pool, some handlers that run, and its sweep."""

    now_s: ClassVar[float] = 1_000.0

    @initialize()
    def begin(self) -> None:
        self.models: dict[int, Handler] = {}
        self.extended: dict[bytes, list[float]] = {}
        self.run(self.open())
        self.begun = True

    async def open(self) -> None:
        tasks: list[Task[..., Any]] = [obeys, goes_on, lingers, plain, threaded]
        self.bench = Bench(tasks, concurrency=PLACES, threads=THREADS)
        self.bench.pool._on_extend = self.extends

    def extends(self, token: bytes, deadline_s: float) -> None:
        self.extended.setdefault(token, []).append(deadline_s)

    @rule(call=calls)
    def do(self, call: Call) -> None:
        self.take(call)

    async def settle(self) -> None:
        self.begin_what_may()
        for number, model in self.models.items():
            if model.end is not None and model.kind == "threaded" and number in BEGUN:
                BEGUN[number].let_go()  # its thread is free for another, whatever it says
        await until(lambda: all(map(self.is_as_modelled, self.models)) and self.holds())

    def begin_what_may(self) -> None:
        """Jobs begin in the order in which they came; who has no place holds the others up."""
        handlers = self.models.values()
        for model in handlers:
            if model.end is None and not model.taken:
                if sum(other.in_place for other in handlers) == PLACES:
                    break
                if 0 < model.hard_s <= self.now_s:
                    model.end = "timeout"
                else:
                    model.taken, model.begun = True, model.kind != "threaded"
        for model in handlers:
            running = sum(other.in_thread and other.begun for other in handlers)
            model.begun |= model.in_thread and running < THREADS

    def pick(self, pick: int, *, begun: bool = False) -> int | None:
        among = [n for n, model in self.models.items() if model.end is None]
        among = [number for number in among if self.models[number].begun or not begun]
        return among[pick % len(among)] if among else None

    # what happens

    async def feed(self, kinds: list[str], told: dict[str, Any]) -> None:
        """One frame."""
        if sum(model.end is None for model in self.models.values()) >= OPEN_MAX:
            return
        soft_s = told["soft_ms"] / 1_000
        extra: dict[str, Any] = {"timeout_ms": told["hard_ms"]}
        if told["own_soft"]:
            soft_s = soft_s or 0.001
            extra |= {"soft_timeout_ms": 1, "more": b'{"soft_timeout_s":%f}' % soft_s}
        else:
            extra["soft_timeout_ms"] = told["soft_ms"]
        hard_s = told["hard_ms"] / 1_000
        jobs: list[tuple[bytes, str, bytes]] = []
        extras: dict[int, dict[str, Any]] = {}
        for kind in kinds:
            number = len(self.models)
            self.models[number] = Handler(kind, 0, 0)
            if kind != "plain":
                extras[len(jobs)] = extra
                self.models[number].soft_s = soft_s and soft_s + self.now_s
                self.models[number].hard_s = hard_s and hard_s + self.now_s
            jobs.append((token(number), kind, payload(number)))
        self.bench.feed(jobs, extras)

    async def pass_time(self, step_s: float, pick: int, then: Reason | None) -> None:
        """And in the same moment one of the handlers is told to end."""
        LimitsMachine.now_s += step_s
        told = self.pick(pick)
        self.bench.pool.sweep(self.now_s)
        for number, model in self.models.items():
            model.pass_time(self.now_s, then if number == told else None)
        if then is not None and told is not None:
            self.tell(told, then)

    async def stop(self, pick: int, reason: Reason) -> None:
        if (number := self.pick(pick)) is not None:
            self.tell(number, reason)

    def tell(self, number: int, reason: Reason) -> None:
        pool = self.bench.pool
        (pool.cancel if reason == "cancelled" else pool.lost)({token(number)})
        self.models[number].stop(reason)

    async def extend(self, pick: int, more_s: float) -> None:
        number = self.pick(pick, begun=True)
        context = None if number is None else BEGUN[number].context
        if number is not None and context is not None:
            context.extend(more_s)
            self.models[number].extend(more_s, self.now_s)

    async def let_go(self, pick: int) -> None:
        if (number := self.pick(pick, begun=True)) is not None:
            BEGUN[number].let_go()
            self.models[number].let_go()

    # what holds

    def is_as_modelled(self, number: int) -> bool:
        model = self.models[number]
        self.bench.pool.settle()
        self.bench.pool.flush()
        outcome, said = self.bench.ended.get(token(number), (None, None))
        if isinstance(said, dict):
            said = said["type"], said["retryable"]
        if (outcome, said) != ENDS.get(model.end or "", (None, None)):
            return False
        if self.extended.get(token(number), []) != model.extended_s:
            return False
        return self.knows(number, model) if model.begun else number not in BEGUN

    def knows(self, number: int, model: Handler) -> bool:
        """The handler has begun and was told what it should have been."""
        here = BEGUN.get(number)
        if here is None:
            return False
        stops = 0 if model.kind == "threaded" else int(model.reason is not None)
        if here.soft_timeouts != model.soft_timeouts or here.stops != stops:
            return False
        context = here.context
        return context is None or (
            context.stop_reason == model.reason
            and (model.end is not None or context.soft_timed_out == model.soft_over)
        )

    def holds(self) -> bool:
        """The worker says that it has what has not ended and is not lost."""
        held = split(self.bench.pool.held())
        wanted = {
            token(number)
            for number, model in self.models.items()
            if model.end is None and model.reason != "lease_lost"
        }
        return len(held) == len(wanted) and set(held) == wanted

    def teardown(self) -> None:
        super().teardown()
        BEGUN.clear()
        for model in self.models.values() if self.begun else ():
            self.seen[f"{model.kind} {model.end}"] += 1
            self.seen["over and goes on"] += model.soft_over and model.end == "let go"
            self.seen["extended"] += len(model.extended_s)
            self.seen[f"never began: {model.end}"] += not model.begun

    async def close(self) -> None:
        self.bench.pool.give_back_waiting()
        for here in BEGUN.values():
            here.let_go()
        await self.bench.finish()
        self.bench.pool.close()


def run(monkeypatch: pytest.MonkeyPatch, examples: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for module in ("taskforge.worker.pool", "taskforge.context"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: LimitsMachine.now_s)
    run_machine(LimitsMachine.counting(seen), examples, steps)
    return seen


@pytest.fixture(autouse=True)
def threads_take_turns() -> Iterator[None]:
    """At once: the loop that waits for them never rests."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before_s)


def passes(step_s: float, then: Reason | None = None) -> Call:
    return Call("pass_time", {"step_s": step_s, "pick": 0, "then": then})


def stop(reason: Reason, pick: int = 0) -> Call:
    return Call("stop", {"pick": pick, "reason": reason})


def feed(*kinds: str, told: dict[str, Any] = NO_LIMITS) -> Call:
    return Call("feed", {"kinds": [*kinds], "told": told})


SHORT = {"soft_ms": 1_000, "own_soft": False, "hard_ms": 3_000}
OWN = {"soft_ms": 3_000, "own_soft": True, "hard_ms": 20_000}
SECOND, SECONDS, MINUTE = passes(1.0), passes(4.0), passes(60.0)
MORE, LESS = (Call("extend", {"pick": 0, "more_s": more_s}) for more_s in (30.0, 0.5))
LET_GO = Call("let_go", {"pick": 0})
LATE = [MORE, LESS, SECONDS, MORE]
ASKED: tuple[Reason, ...] = ("cancelled", "lease_lost")


def rare() -> Iterator[Call]:
    """Each kind through each end, in a place of its own and before it has one."""
    ways: list[list[Call]] = [[], [SECOND, passes(0.5)], [SECOND, passes(2.0)], LATE]
    for reason in ASKED:
        ways += [[stop(reason)], [stop(reason), SECOND], [stop(reason), *LATE]]
        ways += [[passes(1.0, reason)], [passes(4.0, reason)], [SECOND, stop(reason)]]
    ways.append([SECOND, stop("cancelled"), stop("lease_lost")])
    full = feed(*["goes_on"] * PLACES, *["threaded"] * THREADS)
    for kind in KINDS:
        one = feed(kind, told=SHORT)
        for way in ways:
            yield from (one, *way, LET_GO)
            yield from (one, *way, MINUTE, LET_GO)
        yield from (feed(kind, told=OWN), SECOND, passes(2.0), LET_GO)
        yield from (one, LET_GO, feed("plain"), MINUTE, LET_GO)  # limits of the one before
        yield full
        for reason in ASKED:
            yield from (one, stop(reason, pick=-1))
        # Limits count from the moment in which the job came.
        yield from (one, SECOND, *[LET_GO] * (PLACES + THREADS), passes(0.5), LET_GO)
        yield from (full, one, MINUTE, *[LET_GO] * OPEN_MAX)
    yield from (feed(kind, told=SHORT) for kind in KINDS)


def what_is_rare(seen: Counter[str]) -> None:
    """What examples may leave out."""
    machine = LimitsMachine.counting(seen)()
    machine.begin()
    for each in rare():
        machine.take(each)
    machine.teardown()


WANTED = {
    *(f"{kind} {end}" for kind in KINDS for end in ("let go", *ASKED, None)),
    *(f"{kind} timeout" for kind in KINDS if kind != "plain"),
    *(f"never began: {end}" for end in ("timeout", *ASKED, None)),
    *("obeys early", "extended", "over and goes on"),
}


def test_limits_are_kept_as_the_guide_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, examples=25, steps=25)
    what_is_rare(seen)
    assert not {what for what in WANTED if not seen[what]}, seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_limits_are_kept_as_the_guide_says_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, examples=2_000, steps=40)
