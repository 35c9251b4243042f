"""Calls as methods of a client: each call is described once, and both clients have it.

me = method(calls.me)                # AdminClient: me() -> Me
me = async_method(calls.me)          # AsyncAdminClient: await me() -> Me
list = listing(calls.list_users)     # all pages, one thing after the other
"""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from taskforge.client.calls import Call
from taskforge.client.models import Page

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Executor(Protocol):
    """A client that blocks."""

    def execute(self, call: Call[T]) -> T: ...


class AsyncExecutor(Protocol):
    """A client of an event loop."""

    async def execute(self, call: Call[T]) -> T: ...


class Group:
    """Methods that belong together."""

    def __init__(self, client: Executor) -> None:
        self.execute = client.execute


class AsyncGroup:
    """Methods that belong together."""

    def __init__(self, client: AsyncExecutor) -> None:
        self.execute = client.execute


def method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Executor, P], T]:
    """Sends the call and gives its answer."""

    def send(client: Executor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.execute(make(*args, **kwargs))

    return _described(send, make)


def async_method(
    make: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncExecutor, P], Coroutine[Any, Any, T]]:
    """The same in an event loop."""

    async def send(client: AsyncExecutor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client.execute(make(*args, **kwargs))

    return _described(send, make)


def listing(
    make: Callable[Concatenate[str | None, P], Call[Page[T]]],
) -> Callable[Concatenate[Executor, P], Iterator[T]]:
    """Gives all things of a list, page by page as they are taken; `make` has the cursor first."""

    def send(client: Executor, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        cursor = None
        while True:
            page = client.execute(make(cursor, *args, **kwargs))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    return _described(send, make, 1)


def async_listing(
    make: Callable[Concatenate[str | None, P], Call[Page[T]]],
) -> Callable[Concatenate[AsyncExecutor, P], AsyncIterator[T]]:
    """The same in an event loop."""

    async def send(client: AsyncExecutor, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        cursor = None
        while True:
            page = await client.execute(make(cursor, *args, **kwargs))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    return _described(send, make, 1)


def _described(send: F, make: Callable[..., Any], hidden: int = 0) -> F:
    """`send`, with the words and the parameters of `make` for `help`, but for the first ones."""
    parameters = list(inspect.signature(make).parameters.values())[hidden:]
    signature = inspect.Signature([_SELF, *parameters])
    send.__name__ = send.__qualname__ = make.__name__
    send.__doc__ = make.__doc__
    send.__signature__ = signature  # type: ignore[attr-defined]
    return send
