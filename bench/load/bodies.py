"""Request bodies, built before the measurement: 60 bytes of payload, as a caller would write them.

The SDK's own cost of building bodies is measured in `bench/micro`.
"""

import msgspec

PAYLOAD_BYTES = 60
_STAMP = b'{"at":%d,"pad":"%s"}'
_STAMP_BEGINS = b'{"at":'
_PATH = '{"path":"/usr/lib/python3.11/asyncio/subprocess","n":%06d}'


def payload(number: int) -> bytes:
    """A payload of a job of the types `noop` and `first`."""
    text = (_PATH % (100_000 + number % 900_000)).encode()
    assert len(text) == PAYLOAD_BYTES, len(text)
    return text


def stamp_payload(at_ns: int) -> bytes:
    """A payload of a job of the type `stamp`, which begins now."""
    text = _STAMP % (at_ns, b"")
    text = _STAMP % (at_ns, b"x" * (PAYLOAD_BYTES - len(text)))
    assert len(text) == PAYLOAD_BYTES, len(text)
    return text


def stamp_of(text: bytes) -> int:
    """When the call began, of whatever holds a stamp payload."""
    return int(text[text.index(_STAMP_BEGINS) + len(_STAMP_BEGINS) :].split(b",", 1)[0])


def single(job_type: str, text: bytes) -> bytes:
    """The body of a single submit in JSON."""
    return b'{"job_type":"%s","payload":%s}' % (job_type.encode(), text)


def batch(job_type: str, jobs: int, first: int = 0) -> bytes:
    """The body of a batch submit in MessagePack."""
    return msgspec.msgpack.encode(
        {
            "jobs": [
                {"job_type": job_type, "payload": payload(first + number)} for number in range(jobs)
            ]
        }
    )
