"""Lengths, counts and times at which the formats take another code, in both shard tables."""

import msgpack
import pytest

from taskforge_server.ext import table as compiled
from tests.support.table_pair import Pair

EPOCH_US = 1_700_000_000_000_000
FOREVER_US = 2**62
PROJECT = b"p" * 16
HISTORY_ALL = 2


def same_log_and_rows(pair: Pair) -> None:
    taken = pair.take_batch()
    assert taken is not None
    pair.call("committed", taken[0])
    projections = pair.collect(100_000, FOREVER_US)
    assert projections is not None
    pair.projected(projections)
    pair.same_state()


@pytest.mark.parametrize("size", [1, 31, 32, 255, 256, 65_535, 65_536])
def test_sizes_where_codes_change(size: int) -> None:
    """Lengths at which msgpack takes another header, in every place that has a length."""
    pair = Pair(compiled, 1, 1)
    pair.call("queue", PROJECT, PROJECT, "n" * min(size, 255), 0, HISTORY_ALL)
    pair.call("worker", PROJECT)
    text = "x" * size
    options = msgpack.packb({"unique_key": text, "tags": [text, "", text]})
    job = {"job_type": text[:255], "payload": text.encode(), "options": options}
    pair.submit(0, [job] * 3, EPOCH_US)
    frame, _ = pair.call("start", 0, None, 0, 3, EPOCH_US)
    tokens = msgpack.unpackb(frame)[4]
    assert pair.call("succeed_with", tokens[:24], text.encode(), EPOCH_US)
    assert pair.call("failed", tokens[24:48], text, text.encode(), EPOCH_US)
    assert pair.call("retried", tokens[48:], EPOCH_US + size, text.encode(), EPOCH_US)
    pair.call("keyed", PROJECT, text, text.encode(), PROJECT * size, EPOCH_US)
    pair.call("owned", text, size, EPOCH_US)
    same_log_and_rows(pair)


@pytest.mark.parametrize("count", [15, 16, 255, 256, 300, 65_536])
def test_counts_where_codes_change(count: int) -> None:
    pair = Pair(compiled, 1, 1)
    pair.call("queue", PROJECT, PROJECT, "n", 0, HISTORY_ALL)
    workers = count if count <= 300 else 1
    for worker in range(workers):
        pair.call("worker", worker.to_bytes(16, "big"))
    jobs = [{"job_type": f"t{n % 300}", "payload": b"1"} for n in range(count)]
    pair.submit(0, jobs, EPOCH_US)
    for worker in range(workers):
        pair.call("start", 0, None, worker, 1, EPOCH_US)
    if count <= 300:  # a frame has room for fewer types, and the oracle looks at all jobs for each
        pair.call("start", 0, None, 0, count, EPOCH_US)
    same_log_and_rows(pair)


@pytest.mark.parametrize("bits", [0, 7, 8, 15, 16, 31, 32, 50])
@pytest.mark.parametrize("sign", [1, -1])
def test_times_where_codes_change(bits: int, sign: int) -> None:
    """The time of an event against that of the batch, to both sides."""
    pair = Pair(compiled, 1, 1)
    pair.call("queue", PROJECT, PROJECT, "n", 2**31 - 1, HISTORY_ALL)
    pair.call("worker", PROJECT)
    for near in (-1, 0, 1):
        apart = sign * (2**bits + near)
        pair.submit(0, [{"job_type": "t", "payload": b"1"}] * 2, EPOCH_US)
        pair.call("start", 0, None, 0, 1, EPOCH_US + apart)
        pair.call("start", 0, None, 0, 1, EPOCH_US)
        same_log_and_rows(pair)
