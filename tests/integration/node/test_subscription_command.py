"""`taskforge subscription`: what operators see and change; a running node hears of it."""

import asyncio
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from taskforge_server.api.cli.main import app
from taskforge_server.engine.node.node import Node
from taskforge_server.ext.ids import uuid_text
from tests.support.real_node import SHARDS, config_for, prepared

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "subscriptions.md"


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["subscription", *arguments])


async def ok(*arguments: str) -> str:
    result = await run(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.output)


async def test_a_change_is_shown_and_a_node_hears_of_it(postgres_url: str, redis_url: str) -> None:
    project_id = await prepared(postgres_url)
    node = Node(config_for(postgres_url, redis_url=redis_url, shards=SHARDS))
    await node.start()
    try:
        plan = await node.plans.find(project_id, b"")
        organization = uuid_text(plan.organization_id)
        urls = ("--postgres-url", postgres_url, "--redis-url", redis_url)
        assert "tier: enterprise" in await ok("show", organization, *urls[:2])
        set_to = ("set", organization, "--tier", "pro", "--ends", "2100-01-31")
        answer = await ok(
            *set_to, "--limit", "max_workers=7", "--limit", "history_days=none", *urls
        )
        assert "ends: 2100-01-31" in answer
        assert "max_workers: 7 (agreed)" in answer
        assert "history_days: no limit (agreed)" in answer
        assert "weight: 1\n" in answer
        async with asyncio.timeout(8):  # less than it takes without the news
            while (await node.plans.find(project_id, b"")).tier != "pro":  # noqa: ASYNC110
                await asyncio.sleep(0)
        answer = await ok("set", organization, "--limit", "max_workers=default", *urls)
        assert "max_workers: 100\n" in answer
        assert re.search(
            rf"{organization} +pro +2100-01-31 +0 +default", await ok("list", *urls[:2])
        )
    finally:
        await node.stop()


async def test_mistakes_are_named(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    some = uuid_text(project_id)
    url = ("--postgres-url", postgres_url, "--redis-url", "redis://127.0.0.1:1")
    for arguments, said in (
        (("set", "me"), "this is no id"),
        (("set", some, "--tier", "gold"), "starter, pro, enterprise"),
        (("set", some, "--ends", "soon"), "a date such as"),
        (("set", some, "--limit", "max_jobs=1"), "max_jobs_per_month"),
        (("set", some, "--limit", "max_queues=many"), "a whole number"),
        (("set", some, "--limit", "max_queues=100000000"), "max_queues"),
        (("set", some, "--tier", "pro"), "no such organization"),
    ):
        result = await run(*arguments, *url)
        assert result.exit_code != 0
        assert said in re.sub(r"[\s│]+", " ", result.output), result.output


async def test_without_redis_the_change_stands_and_that_is_said(postgres_url: str) -> None:
    await prepared(postgres_url)
    organization = (await ok("list", "--postgres-url", postgres_url)).split()[0]
    urls = ("--postgres-url", postgres_url, "--redis-url", "redis://127.0.0.1:1")
    assert "within ten seconds" in await ok("set", organization, "--tier", "starter", *urls)
    assert "tier: starter" in await ok("show", organization, *urls[:2])


def test_the_guide_names_every_limit_and_its_defaults() -> None:
    from taskforge_server.engine.model.subscription import NAMES, TIERS

    text = GUIDE.read_text(encoding="utf-8")
    for name in NAMES:
        row = re.search(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
        assert row is not None, name
        shown = [cell.strip().replace(",", "") for cell in row.group(1).split("|")[-3:]]
        values = [getattr(TIERS[tier], name) for tier in ("starter", "pro", "enterprise")]
        assert shown == ["\N{EN DASH}" if value is None else str(value) for value in values], name
