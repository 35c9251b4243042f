"""What a committed log row says to those who follow its jobs; see followed.pyx."""

from typing import Any

from taskforge_server.ext.table import ShardTable

def followed(
    table: ShardTable, body: bytes, rooms: dict[bytes, int], jobs: bytes
) -> tuple[int, list[tuple[bytes, str, list[Any]]], dict[bytes, int]]: ...
