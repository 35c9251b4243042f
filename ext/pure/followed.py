"""The plain twin of `ext.followed`: the same interface. See there."""

from typing import Any

import msgpack

from taskforge_server.ext.pure.table import ShardTable
from taskforge_server.ext.pure.tablelog import HEADER_BYTES

ID_BYTES = 16
TEXT_BYTES_MAX = 255


def followed(
    table: ShardTable, body: bytes, rooms: dict[bytes, int], jobs: bytes
) -> tuple[int, list[tuple[bytes, str, list[Any]]], dict[bytes, int]]:
    """(time that the events count from, what is told, how much there was no room for by queue)."""
    wanted = {jobs[at : at + ID_BYTES] for at in range(0, len(jobs), ID_BYTES)}
    left: dict[bytes, int | None] = {}
    told: list[tuple[bytes, str, list[Any]]] = []
    over: dict[bytes, int] = {}
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(body[HEADER_BYTES:])
    _, base_us, _, _, _, count = unpacker.unpack()
    for _ in range(count):
        event = unpacker.unpack()
        job = table._jobs.get(event[1]) if isinstance(event[1], bytes) else None
        if job is None:
            continue
        queue = table._queues[job.queue]
        if job.id not in wanted:
            room = left.setdefault(queue.id, rooms.get(queue.id, rooms.get(queue.project_id)))
            if room is None:
                continue
            if room <= 0:
                over[queue.id] = over.get(queue.id, 0) + 1
                continue
            left[queue.id] = room - 1
        fields = [event[0], job.id, *(_value(field) for field in event[2:])]
        told.append((queue.id, job.job_type, fields))
    return base_us, told, over


def _value(field: object) -> object:
    """A number or a short text; None for anything else."""
    if isinstance(field, str):
        return field if len(field.encode()) <= TEXT_BYTES_MAX else None
    return None if isinstance(field, bytes) else field
