"""Options and fixtures that every test folder understands."""

import pytest
from hypothesis import settings

from tests.support.servers import (
    databases,
    empty_postgres_url,
    migrated_template,
    module_postgres_url,
    postgres_url,
    redis_url,
    servers,
)

__all__ = [
    "databases",
    "empty_postgres_url",
    "migrated_template",
    "module_postgres_url",
    "postgres_url",
    "redis_url",
    "servers",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")


def pytest_configure(config: pytest.Config) -> None:
    """The suite tries the same examples each time, so that it fails for a change and never by
    chance; with --long others are tried."""
    settings.register_profile("suite", derandomize=True)
    if not config.getoption("--long"):
        settings.load_profile("suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="takes minutes: give --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)
