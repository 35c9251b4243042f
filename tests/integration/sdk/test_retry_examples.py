"""The programs of the guides for retries and dead letters, as they stand there."""

import asyncio
import os
import sys

from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node
from tests.support.reference import ROOT

KEY = api_key_text(bytes(32))
SAID = {
    "retries": """\
reached busy in attempt 2
reached asleep in attempt 4
unknown: not_retryable after 1
withdrawn: cancelled, the caller hung up
broken: not_retryable after 1
broken: attempts_exhausted after 3
""",
    "dead_letters": """\
told: orders: not_retryable, closed
told: orders: not_retryable, closed
told: orders: not_retryable, closed
dead: order 2 after 1
dead: order 1 after 1
dead: order 0 after 1
would run again: 3
succeeded
succeeded
purged: 1
""",
}


async def test_the_programs_of_the_guides_run(postgres_url: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        told = await asyncio.gather(*(run(name, url) for name in SAID))
        await server.stop(1.0)
    assert dict(zip(SAID, told, strict=True)) == SAID


async def run(name: str, url: str) -> str:
    kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "docs" / "examples" / f"{name}.py"),
        env=kept | {"TASKFORGE_URL": url, "TASKFORGE_API_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return told.decode()
