"""The plain twin of `ext.plainbatch`: the same interface. See there."""

import msgpack

from taskforge_server.ext.pure import jsontext
from taskforge_server.ext.pure.table import SubmitBatch

_JOB_KEYS = {"job_type", "payload", "priority"}


def plain_batch(
    body: bytes, jobs_max: int, payload_bytes_max: int, depth_max: int
) -> SubmitBatch | None:
    """The jobs of a plain body, or None where it is not plain."""
    batch = SubmitBatch()
    try:
        message = msgpack.unpackb(body, object_pairs_hook=_once, strict_map_key=False)
        if set(message) != {"jobs"} or not 1 <= len(message["jobs"]) <= jobs_max:
            return None
        for job in message["jobs"]:
            if not {"job_type", "payload"} <= set(job) <= _JOB_KEYS:
                return None
            kind, payload, priority = job["job_type"], job["payload"], job.get("priority", 0)
            plain = type(kind) is str and type(payload) is bytes and type(priority) is int
            if not plain or "\0" in kind or len(payload) > payload_bytes_max:
                return None
            jsontext.check(payload, depth_max)
            batch.add(kind, payload, priority)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return batch


def _once(pairs: list[tuple[object, object]]) -> dict[object, object]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("an entry stands twice")
    return named
