"""The Python SDK of TaskForge: submit jobs, and run the workers that execute them."""

from importlib.metadata import version

__version__ = version("taskforge")
