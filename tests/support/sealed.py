"""Encrypted projects in tests: the switch, and the search for what must not be readable."""

from pathlib import Path

from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.pool import Pool

TABLES = """
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""

SHOWN = """
    SELECT count(*) FROM any_table t WHERE strpos(t::text, $1) > 0 OR strpos(t::text, $2) > 0
"""


async def encrypt(node: Node, project_id: bytes, *, on: bool = True) -> bytes:
    """Switch the project, as the operator; its organisation."""
    organization_id = await node.project_keys.organization_of(project_id)
    await node.project_keys.switch(organization_id, project_id, on, node.masters.new_key, OPERATOR)
    await node.keyring.changed(project_id)
    return organization_id


async def places_of(pool: Pool, folder: Path, canary: str) -> list[str]:
    """Tables that show the text, files of the database and of its log that hold it."""
    found = await tables_of(pool, canary)
    await pool.execute("CHECKPOINT")
    database = await pool.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
    return found + _files_with(folder, (f"base/{database}", "pg_wal", "."), canary.encode())


async def tables_of(pool: Pool, canary: str) -> list[str]:
    """Tables that show the text."""
    found = []
    for row in await pool.fetch(TABLES):
        table = row[0]
        shown = SHOWN.replace("any_table", table)
        if await pool.fetchval(shown, canary, canary.encode().hex()):
            found.append(table)
    return found


def _files_with(folder: Path, parts: tuple[str, ...], text: bytes) -> list[str]:
    return [
        str(path.relative_to(folder))
        for part in parts
        for path in sorted((folder / part).iterdir())
        if path.is_file() and text in path.read_bytes()
    ]
