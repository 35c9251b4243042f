"""A server that the tests of a module share, each with organisations of its own, and one alone."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.people import Site, serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(module_postgres_url: str) -> AsyncIterator[Site]:
    async with serving(module_postgres_url) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def own_site(postgres_url: str) -> AsyncIterator[Site]:
    """For tests that count all that comes from one address, or see all rows."""
    async with serving(postgres_url) as started:
        yield started
