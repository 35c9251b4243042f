"""Payloads become calls by the handler's signature, or are refused before it sees anything."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from taskforge import Context, Task, task

CONTEXT = Context(bytes(24), "default", "a", 1, b"{}")


class Address(msgspec.Struct):
    street: str
    number: int = 1


@dataclass
class Point:
    x: int
    y: int


def call(handler: Task[..., Any], payload: bytes) -> Any:
    """Run the handler as the worker would."""
    binding = handler.binding
    if binding.takes_context:
        assert binding.call_with is not None
        bound = binding.call_with(payload, CONTEXT)
    else:
        assert binding.call is not None
        bound = binding.call(payload)
    return asyncio.run(bound) if handler.is_async else bound()


@pytest.mark.parametrize("payload", [b"", b"null", b"{}", b" { } "])
def test_no_parameters_take_no_arguments(payload: bytes) -> None:
    @task
    async def nothing() -> str:
        return "done"

    assert call(nothing, payload) == "done"


def test_arguments_come_by_name_and_keep_their_order() -> None:
    @task
    async def ordered(first: str, second: int, third: float = 0.5) -> list[Any]:
        return [first, second, third]

    assert call(ordered, b'{"second": 2, "first": "a"}') == ["a", 2, 0.5]


def test_type_hints_convert() -> None:
    @task
    async def typed(when: datetime, who: UUID, where: Address, at: Point, tags: set[str]) -> Any:
        return when, who, where, at, tags

    who = UUID(int=7)
    found = call(
        typed,
        msgspec.json.encode(
            {
                "when": datetime(2026, 1, 1, tzinfo=UTC),
                "who": who,
                "where": {"street": "A"},
                "at": {"x": 1, "y": 2},
                "tags": ["t"],
            }
        ),
    )
    assert found == (
        datetime(2026, 1, 1, tzinfo=UTC),
        who,
        Address("A"),
        Point(1, 2),
        {"t"},
    )


def test_defaults_are_those_of_python() -> None:
    shared = [1]

    @task
    async def defaults(a: int = 1, b: list[int] = shared, c: Address | None = None) -> Any:
        return a, b, c

    assert call(defaults, b"null") == (1, [1], None)
    assert call(defaults, b"{}")[1] is shared


def test_keyword_only_rest_and_context_at_any_place() -> None:
    @task
    async def all_kinds(
        a: int, ctx: Context, b: int = 2, *, c: int = 3, d: int, **rest: int
    ) -> Any:
        return a, ctx is CONTEXT, b, c, d, rest

    assert call(all_kinds, b'{"a": 1, "d": 4, "e": 5}') == (1, True, 2, 3, 4, {"e": 5})
    with pytest.raises(msgspec.ValidationError):
        call(all_kinds, b'{"a": 1, "d": 4, "e": "text"}')

    @task
    async def last(a: int, *, ctx: Context) -> Any:
        return a, ctx is CONTEXT

    assert call(last, b'{"a": 1}') == (1, True)

    @task
    async def alone(ctx: Context) -> Any:
        return ctx is CONTEXT

    assert call(alone, b"null") is True

    @task
    async def anything(**rest: Any) -> Any:
        return rest

    assert call(anything, b'{"x": [1]}') == {"x": [1]}
    assert call(anything, b"null") == {}


def test_sync_handlers_are_bound_before_they_are_called() -> None:
    called = []

    @task
    def sync(a: int, ctx: Context) -> int:
        called.append(a)
        return a

    assert sync.binding.call_with is not None
    bound = sync.binding.call_with(b'{"a": 3}', CONTEXT)
    assert called == []
    assert bound() == 3


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'{"name": 5}', "Expected `str`"),
        (b"{}", "missing required field `name`"),
        (b"null", "missing required field `name`"),
        (b'{"name": "a", "other": 1}', "unknown field `other`"),
        (b'["a"]', "Expected `object`"),
        (b'{"name": "a"', "truncated"),
    ],
)
def test_bad_arguments_are_refused(payload: bytes, says: str) -> None:
    @task
    async def strict(name: str) -> None:
        raise AssertionError("called")

    with pytest.raises(msgspec.MsgspecError, match=says):
        call(strict, payload)


def test_an_unexpected_payload_is_refused() -> None:
    @task
    async def nothing() -> None: ...

    with pytest.raises(msgspec.ValidationError):
        call(nothing, b'{"a": 1}')


def test_signatures_that_no_payload_fits() -> None:
    with pytest.raises(TypeError, match="has no name"):
        _ = task(lambda *args: None).binding
    with pytest.raises(TypeError, match="generator"):
        task(_generator)
    with pytest.raises(TypeError, match="cannot be resolved"):
        _ = task(_unknown_hint).binding
    with pytest.raises(TypeError, match="cannot come from JSON"):
        _ = task(_hint_without_json).binding
    with pytest.raises(TypeError, match="two parameters of type Context"):
        _ = task(_two_contexts).binding


def _generator() -> Any:
    yield 1


def _unknown_hint(a: "Missing") -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


def _hint_without_json(a: dict[Address, int] | dict[Point, str]) -> None: ...


def _two_contexts(a: Context, b: Context) -> None: ...
