"""Processes that do not outlive the one that starts them, however that one ends.

    owner ══ writing end of a pipe ══> a small shell beside the process, which only reads
                                        a line: the owner ended the process itself; nothing to do
                                        the end: the owner is gone, so the process gets its signal

No code of the owner has to run for that: the kernel closes the pipe when the owner dies, and Python
closes it when an exception of a signal handler hits the owner before it has noted its new process.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

# $0 is the signal, $$ the shell that becomes the process. The reader is nobody's child, so that the
# process never hears of it, and holds none of its files.
SCRIPT = """
exec 3<&0 </dev/null
( ( read -r _ <&3 || kill -s "$0" "$$" ) >/dev/null 2>&1 & )
exec "$@" 3<&-
"""


def start(
    command: Sequence[str], at_our_end: signal.Signals, **options: Any
) -> "subprocess.Popen[Any]":
    """`Popen(command)`, with nothing to read; it gets the signal when this process ends first."""
    name = at_our_end.name.removeprefix("SIG")
    return subprocess.Popen(  # noqa: S603 - our own commands
        ["/bin/sh", "-c", SCRIPT, name, *command], stdin=subprocess.PIPE, **options
    )


def release(process: "subprocess.Popen[Any]") -> None:
    """Of a process that was ended or has ended: its number may soon be another's."""
    pipe = process.stdin
    if pipe is None or pipe.closed:
        return
    try:
        os.write(pipe.fileno(), b"\n")
    except BrokenPipeError:
        pass  # somebody ended the shell too
    pipe.close()
