"""Ctrl-C and polite requests to end, for commands that must tidy up whenever they come."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

STATUS = 130
"""Of a command that was interrupted, as a shell has it for Ctrl-C."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a polite request to end. An event loop keeps other exceptions with the task that
    ran, and goes on."""


@contextmanager
def interruptible() -> Iterator[ExitStack]:
    """A stack: the first signal inside raises Interrupted, and none disturbs its closing.

    After an interruption all are ignored, for the process is about to end. A hangup that was
    ignored before (`nohup`) is never heard.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def ignore() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    heard = False

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal heard
        heard = True
        ignore()
        raise Interrupted

    try:
        with ExitStack() as stack:
            for number in before:
                signal.signal(number, interrupt)
            try:
                yield stack
            finally:
                ignore()
    finally:
        if not heard:
            for number, handler in before.items():
                signal.signal(number, handler)
