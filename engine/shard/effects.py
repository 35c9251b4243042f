"""Effects: what the outside may see of a decision, kept back until the decision is durable.

    kept --committed--> released
      \\----fenced-----> refused

An effect is released or refused exactly once, and never before the log row of its cause is durable.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

V = TypeVar("V", contravariant=True)


class Effect(Protocol):
    """Something to be done once the record is durable."""

    def release(self) -> None:
        """The record is durable."""
        ...

    def refuse(self, error: Exception) -> None:
        """It never will be under this ownership."""
        ...


class Promise(Protocol[V]):
    """The part of a future that an effect needs."""

    def done(self) -> bool: ...
    def set_result(self, result: V, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class Sink(Protocol):
    """Where frames go."""

    def send(self, frame: bytes) -> None: ...


class Reply:
    """The answer to a command. The caller may be gone by then."""

    __slots__ = ("_promise", "_value")

    def __init__(self, promise: Promise[V], value: V) -> None:
        self._promise = promise
        self._value = value

    def release(self) -> None:
        if not self._promise.done():
            self._promise.set_result(self._value)

    def refuse(self, error: Exception) -> None:
        if not self._promise.done():
            self._promise.set_exception(error)


class Wake:
    """Tells all who wait for something that it happened."""

    __slots__ = ("_promises",)

    def __init__(self, promises: Iterable[Promise[None]]) -> None:
        self._promises = list(promises)

    def release(self) -> None:
        for promise in self._promises:
            if not promise.done():
                promise.set_result(None)

    def refuse(self, error: Exception) -> None:
        for promise in self._promises:
            if not promise.done():
                promise.set_exception(error)


class Send:
    """A frame for a worker."""

    __slots__ = ("_frame", "_sink")

    def __init__(self, sink: Sink, frame: bytes) -> None:
        self._sink = sink
        self._frame = frame

    def release(self) -> None:
        self._sink.send(self._frame)

    def refuse(self, error: Exception) -> None:
        """The worker reads nothing of what did not happen."""


class Join:
    """One effect that waits for several shards: attached to each, it acts after the last.

    One refusal refuses the whole; what the other shards say after that is ignored.
    """

    __slots__ = ("_open_count", "_refused", "_released")

    def __init__(
        self,
        shards_count: int,
        released: Callable[[], None],
        refused: Callable[[Exception], None],
    ) -> None:
        assert shards_count > 0
        self._open_count = shards_count
        self._released = released
        self._refused = refused

    def release(self) -> None:
        self._open_count -= 1
        if self._open_count == 0:
            self._released()

    def refuse(self, error: Exception) -> None:
        if self._open_count > 0:
            self._open_count = -1
            self._refused(error)
