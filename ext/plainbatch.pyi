"""Batches of plain jobs, taken from MessagePack without an object per job."""

from taskforge_server.ext.table import SubmitBatch

def plain_batch(
    body: bytes, jobs_max: int, payload_bytes_max: int, depth_max: int
) -> SubmitBatch | None: ...
