"""Workers: processes that run jobs. `Worker` in a program, `main` as a command."""

from taskforge.worker.cli import main
from taskforge.worker.worker import Worker

__all__ = ["Worker", "main"]
