"""An append-only history on disk: a line is one write, so a SIGKILL loses nothing that was said."""

import json
import os
import time
from pathlib import Path
from typing import Any


class HistoryFile:
    """Written by one process, in any of its threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(self, event: str, **more: Any) -> None:
        """Add a line, stamped with the clock that all processes share."""
        entry = {"e": event, "at": time.monotonic_ns(), **more}
        os.write(self._fd, json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)
