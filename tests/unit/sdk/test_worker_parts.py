"""The worker's pure parts: completions, credit, backoff, outcomes, context, settings."""

from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge import Context, FatalError, RetryableError, limits, settings
from taskforge.worker import frames
from taskforge.worker.completions import Completions
from taskforge.worker.credit import differs, next_credit
from taskforge.worker.link import backoff_s
from taskforge.worker.outcome import exception_json, failure_json, result_json
from tests.support.stub_stream import jobs_frame, split, token


def held(completions: Completions) -> set[bytes]:
    return set(split(completions.tokens()))


def test_completions_are_held_until_they_are_acknowledged() -> None:
    completions = Completions()
    completions.succeeded(token(1) + token(2), 2)
    completions.add(token(3), frames.SUCCEEDED, b"5")
    assert held(completions) == {token(1), token(2), token(3)}
    (sealed,) = completions.seal()
    assert (sealed.seq, sealed.jobs, completions.unacked_jobs) == (1, 3, 3)
    assert completions.seal() == []
    completions.succeeded(token(4), 1)
    assert held(completions) == {token(1), token(2), token(3), token(4)}
    completions.acknowledged(1)
    completions.acknowledged(1)
    assert held(completions) == {token(4)}
    assert not completions.empty
    completions.seal()
    completions.acknowledged(2)
    assert completions.empty
    assert completions.unacked_jobs == 0


def test_resends_are_in_order_and_without_stale_ones() -> None:
    completions = Completions()
    completions.succeeded(token(1) + token(2), 2)
    completions.seal()
    completions.add(token(3), frames.FAILED, b"{}")
    completions.seal()
    completions.add(token(4), frames.FAILED, b"{}")
    completions.seal()
    again = completions.resend({token(1), token(3)})
    assert [frame.seq for frame in again] == [1, 3]
    assert msgspec.msgpack.decode(again[0].encode()) == [3, 1, token(2), []]
    assert completions.unacked_jobs == 2
    assert held(completions) == {token(2), token(4)}


def test_heavy_completions_are_split_over_frames() -> None:
    completions = Completions()
    sizes = [limits.DONE_BYTES_MAX // 2, limits.DONE_BYTES_MAX // 2, 10, limits.DONE_BYTES_MAX + 1]
    completions.succeeded(token(0), 1)
    for number, size in enumerate(sizes, start=1):
        completions.add(token(number), frames.SUCCEEDED, b"x" * size)
    sealed = completions.seal()
    assert [frame.jobs for frame in sealed] == [3, 1, 1]
    assert [frame.seq for frame in sealed] == [1, 2, 3]
    assert sealed[0].tokens_ok == token(0)
    assert sealed[1].tokens_ok == b""


@given(
    credit=st.integers(0, limits.CREDIT_MAX),
    slots=st.integers(1, limits.CONCURRENCY_MAX),
    finished_jobs=st.integers(0, 100_000),
    elapsed_s=st.floats(0.0, 10.0),
)
def test_credit_stays_in_its_bounds(
    credit: int, slots: int, finished_jobs: int, elapsed_s: float
) -> None:
    found = next_credit(
        credit=credit,
        slots=slots,
        finished_jobs=finished_jobs,
        elapsed_s=elapsed_s,
        unacked_jobs=0,
    )
    assert slots <= found <= max(limits.CREDIT_MAX, slots)
    assert found <= max(credit, slots) * limits.CREDIT_GROWTH_MAX


def test_credit_follows_the_rate_and_stops_when_acks_are_missing() -> None:
    stock = int(5_000 / 0.05 * limits.CREDIT_WINDOW_S)
    usual: dict[str, Any] = {"credit": 8_192, "slots": 100, "elapsed_s": 0.05}
    assert next_credit(**usual, finished_jobs=0, unacked_jobs=0) == 100
    assert next_credit(**usual, finished_jobs=5_000, unacked_jobs=0) == 100 + stock
    assert next_credit(**usual, finished_jobs=9, unacked_jobs=limits.UNACKED_JOBS_MAX) == 0
    assert differs(0, 1)
    assert differs(1, 0)
    assert not differs(100, 110)
    assert differs(100, 120)


@given(attempt=st.integers(0, 1_000_000), chance=st.floats(0, 1))
def test_backoff_is_bounded(attempt: int, chance: float) -> None:
    assert limits.BACKOFF_MIN_S / 2 <= backoff_s(attempt, chance) <= limits.BACKOFF_MAX_S
    assert backoff_s(0, chance) <= limits.BACKOFF_MIN_S


def test_results_are_json() -> None:
    assert result_json({"a": [1, datetime(2026, 1, 1, tzinfo=UTC)]}, 100) == (
        b'{"a":[1,"2026-01-01T00:00:00Z"]}'
    )
    assert result_json("\\u0000", 100) == rb'"\\u0000"'


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (object(), "not JSON-able"),
        ("\ud800", "not JSON-able"),
        ("x" * 99, "101 bytes"),
        ("a\0", r"U\+0000"),
        ("\\\0", r"U\+0000"),
    ],
)
def test_results_that_cannot_be_stored(result: Any, says: str) -> None:
    with pytest.raises(FatalError, match=says):
        result_json(result, 100)


def test_failures_say_what_happened_and_whether_to_try_again() -> None:
    def failure(raised: Exception) -> Any:
        try:
            raise raised
        except Exception as error:  # noqa: BLE001 - any that the test names
            return msgspec.json.decode(exception_json(error))

    found = failure(ValueError("no\0 \ud800"))
    assert found["type"] == "ValueError"
    assert found["message"] == "no\ufffd ?"
    assert found["retryable"] is True
    assert "ValueError" in found["traceback"]
    assert failure(RetryableError("later"))["retryable"] is True
    assert failure(FatalError("never"))["retryable"] is False
    assert len(failure(ValueError("x" * 100_000))["message"]) == limits.ERROR_MESSAGE_CHARS_MAX
    assert "traceback" not in msgspec.json.decode(failure_json("t", "m", retryable=True))

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failure(UnprintableError())["type"] == "UnprintableError"


def test_context() -> None:
    context = Context(token(5, lease=77), "mail", "send", 3, b"{}", monotonic() + 60)
    assert context.job_id == "00000000-0000-0000-0000-000000000005"
    assert context.lease == 77
    assert context.remaining_s is not None
    assert context.deadline is not None
    assert 0 < context.remaining_s <= 60
    assert context.deadline > datetime.now(UTC)
    assert not context.cancelled
    context._stop("lease_lost")
    context._stop("shutdown")
    assert (context.cancelled, context.lost, context.stop_reason) == (True, True, "lease_lost")
    assert Context(token(5), "mail", "send", 1, b"{}").remaining_s is None
    assert Context(token(5), "mail", "send", 1, b"{}").deadline is None


def test_a_context_logs_with_the_job_id(caplog: pytest.LogCaptureFixture) -> None:
    context = Context(token(5), "mail", "send", 3, b"{}")
    context.logger.warning("watch %s", "out", extra={"more": 1})
    (record,) = caplog.records
    assert record.getMessage() == f"[{context.job_id} #3] watch out"
    assert (record.job_id, record.more) == (context.job_id, 1)  # type: ignore[attr-defined]


def test_settings_come_from_arguments_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFORGE_URL", "https://jobs.example.org/base/")
    monkeypatch.setenv("TASKFORGE_API_KEY", "secret")
    found = settings.server()
    assert found.url("/v1/jobs") == "https://jobs.example.org:443/base/v1/jobs"
    assert found.authorization == "Bearer secret"
    assert "secret" not in repr(found)
    assert settings.server("http://[::1]:8040", "other").origin == "http://[::1]:8040"


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("ftp://host", "k", "TASKFORGE_URL"),
        ("localhost:8040", "k", "TASKFORGE_URL"),
        ("http://host", "", "TASKFORGE_API_KEY"),
        ("http://host", "a\nb", "characters"),
    ],
)
def test_wrong_settings_are_named(url: str, key: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settings.server(url, key)


def test_frames_of_the_server() -> None:
    frame = frames.decode(
        jobs_frame("q", [(token(1), "a", b"1"), (token(2), "b", b"2")], {1: {"attempt": 2}})
    )
    assert isinstance(frame, frames.Jobs)
    assert frames.check_jobs(frame) == 2
    assert frame.extras[1] == frames.Extra(attempt=2)
    assert isinstance(frames.decode(b"\x91\x0d"), frames.Pong)


@pytest.mark.parametrize(
    ("tokens", "kinds", "types"),
    [
        (b"x" * 24, b"", ["a"]),
        (b"x" * 48, b"\0", ["a"]),
        (b"x" * 48, b"\0\1", ["a"]),
        (b"x" * 48, b"", []),
    ],
)
def test_jobs_frames_that_do_not_fit_together(
    tokens: bytes, kinds: bytes, types: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"tokens|kind"):
        frames.check_jobs(frames.Jobs("q", types, kinds, tokens, [b"1", b"2"]))
