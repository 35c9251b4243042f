"""The version of the SDK, from its distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("taskforge")
except PackageNotFoundError:  # run from a tree that is not installed
    VERSION = "0+unknown"
