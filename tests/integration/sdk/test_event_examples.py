"""The programs of the guides for events and for unique jobs."""

import asyncio
import os
import sys

import pytest

from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.real_node import SHARDS, running_node
from tests.support.reference import ROOT

KEY = api_key_text(bytes(32))
SAID = {
    "events.py": """\
50.0 second half
succeeded
['m.png', 'nosferatu.png']
succeeded m.png
""",
    "unique_jobs.py": """\
True existing
unique_conflict True
existing
debounced {'version': 2}
""",
}


@pytest.mark.parametrize("name", SAID)
async def test_the_program_of_the_guide_runs(postgres_url: str, name: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    async with running_node(postgres_url) as node:
        server = api_of(node)
        port = await server.start("127.0.0.1", 0)
        kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "docs" / "examples" / name),
            env=kept | {"TASKFORGE_URL": f"http://127.0.0.1:{port}", "TASKFORGE_API_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, errors = await process.communicate()
        await server.stop(1.0)
    assert process.returncode == 0, errors.decode()
    assert told.decode() == SAID[name]
