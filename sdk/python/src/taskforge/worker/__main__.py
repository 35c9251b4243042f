"""`python -m taskforge.worker MODULE`: the worker's command."""

import sys

from taskforge.worker.cli import main

sys.exit(main())
