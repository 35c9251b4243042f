"""Options and fixtures that every test folder understands."""

import pytest

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="takes minutes: give --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)
