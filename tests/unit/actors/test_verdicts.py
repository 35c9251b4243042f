"""Nothing that a worker says loses a job."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine import limits
from taskforge_server.engine.actors.verdicts import checked_error, told

NOW_US = 1_700_000_000_000_000


def test_wishes_name_a_time() -> None:
    error = {"type": "E", "message": "m"}
    wish = told(json.dumps({"error": error, "delay_ms": 1500}).encode(), NOW_US)
    assert (wish.error_type, wish.due_us, wish.retryable) == ("E", NOW_US + 1_500_000, True)
    assert json.loads(wish.error) == error
    assert told(b'{"at_us": 7}', NOW_US).due_us == 7
    assert told(b"{}", NOW_US).due_us is None


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"[]",
        b'{"delay_ms": "1"}',
        b'{"delay_ms": 1.5}',
        b'{"at_us": 1e400}',
        b"{" + b" " * limits.ERROR_BYTES_MAX + b"}",
        b'{"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"error": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
)
def test_what_cannot_be_understood_is_a_failure_that_says_so(data: bytes | None) -> None:
    wish = told(data, NOW_US)
    assert (wish.error_type, wish.due_us, wish.retryable) == ("invalid_error", None, True)
    assert json.loads(wish.error)["type"] == "invalid_error"


@pytest.mark.parametrize("error", [b"7", b'"x"', b'{"message": "\\u0000"}', b"[" * 99 + b"]" * 99])
def test_an_error_within_a_wish_is_checked_like_any_other(error: bytes) -> None:
    wish = told(b'{"delay_ms": 1, "error": ' + error + b"}", NOW_US)
    assert json.loads(wish.error)["type"] == "invalid_error"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_an_error_that_is_json(data: bytes) -> None:
    for found in (told(data, NOW_US), checked_error(data)):
        assert isinstance(json.loads(found.error), dict)
