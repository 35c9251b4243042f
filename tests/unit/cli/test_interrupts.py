"""Which signals a command hears, and when."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from taskforge_server.api.cli.interrupts import SIGNALS, Interrupted, interruptible


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[object]]:
    """How the signals of this process were handled, and are again after the test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield list(before.values())
    for number, handler in before.items():
        signal.signal(number, handler)


def now() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_the_block_and_none_disturbs_the_closing(
    number: signal.Signals,
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    closed = False

    def close() -> None:
        nonlocal closed
        for other in SIGNALS:
            signal.raise_signal(other)
        closed = True

    def run() -> None:
        with interruptible() as stack:
            stack.callback(close)
            signal.raise_signal(number)

    with pytest.raises(Interrupted):
        run()
    assert closed
    assert now() == [signal.SIG_IGN] * len(SIGNALS)


@pytest.mark.parametrize("fails", [False, True])
def test_without_a_signal_all_is_as_before(fails: bool, handlers: list[object]) -> None:
    with suppress(OSError), interruptible():
        if fails:
            raise OSError("no room")
    assert now() == handlers


def test_a_hangup_that_was_ignored_is_not_heard() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGHUP)
    with pytest.raises(Interrupted), interruptible():
        signal.raise_signal(signal.SIGTERM)
