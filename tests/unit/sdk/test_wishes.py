"""What handlers raise, as it goes over the wire, also to a server that understands less."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from taskforge import Cancel, Fail, FatalError, Retry, RetryableError, Snooze
from taskforge.worker import frames
from taskforge.worker.completions import Completions
from taskforge.worker.outcome import raised

TOKEN = b"t" * 24
AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
AT_US = 1_767_323_045_678_901


def said(error: BaseException) -> tuple[int, dict[str, Any]]:
    outcome, data = raised(error)
    return outcome, msgspec.json.decode(data)


@pytest.mark.parametrize(
    ("error", "outcome", "wish"),
    [
        (Retry("m", delay_s=1.5), frames.RETRY, {"delay_ms": 1500}),
        (Retry(at=AT), frames.RETRY, {"at_us": AT_US}),
        (Snooze(0), frames.SNOOZE, {"delay_ms": 0}),
        (Snooze(at=AT.astimezone()), frames.SNOOZE, {"at_us": AT_US}),
        (Cancel("enough"), frames.CANCELLED, {}),
    ],
)
def test_wishes(error: BaseException, outcome: int, wish: dict[str, int]) -> None:
    found, data = said(error)
    data.pop("error", None)
    assert (found, data) == (outcome, wish)


def test_errors_go_along() -> None:
    _, data = said(Retry("m", delay_s=1))
    assert (data["error"]["type"], data["error"]["message"]) == ("Retry", "m")
    assert data["error"]["retryable"]
    assert said(Cancel("enough"))[1]["error"]["message"] == "enough"


@pytest.mark.parametrize(
    ("error", "retryable"),
    [(Retry("m"), True), (RetryableError("m"), True), (Fail("m"), False), (FatalError("m"), False)],
)
def test_plain_failures(error: BaseException, retryable: bool) -> None:
    outcome, data = said(error)
    assert (outcome, data["retryable"]) == (frames.FAILED, retryable)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(delay_s=1, at=AT),
        lambda: Retry(at=datetime(2026, 1, 1)),  # noqa: DTZ001 - that is what is refused
        lambda: Retry(delay_s=-1),
        lambda: Retry(delay_s=float("nan")),
        lambda: Snooze(),
        lambda: Snooze(-timedelta(seconds=1).total_seconds()),
    ],
)
def test_times_that_make_no_sense(make: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"delay_s|at"):
        make()


def test_a_server_that_knows_no_wishes_is_told_of_failures() -> None:
    completions = Completions()
    for error in (Retry("again", delay_s=1), Snooze(5), Cancel("enough"), Fail("no")):
        completions.add(TOKEN, *raised(error))
    completions.add(TOKEN, frames.GIVEN_BACK, None)
    (sealed,) = completions.seal()
    _, _, _, others = msgspec.msgpack.decode(sealed.encode(frames.GIVEN_BACK))
    assert [outcome for _, outcome, _ in others] == [1, 1, 1, 1, 2]
    errors = [msgspec.json.decode(data) for _, _, data in others if data]
    assert [error["retryable"] for error in errors] == [True, True, False, False]
    assert [error["type"] for error in errors] == ["Retry", "Snooze", "cancelled", "Fail"]
    # Another server may understand: what was said is kept as it was.
    _, _, _, others = msgspec.msgpack.decode(sealed.encode(frames.CANCELLED))
    assert [outcome for _, outcome, _ in others] == [3, 4, 5, 1, 2]
