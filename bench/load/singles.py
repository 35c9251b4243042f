"""A load client for single submits over many connections: `raw_http` in a process of its own.

Prints a JSON object: calls of each whole second after the warm-up, statuses, latencies.
"""

import argparse
import json

import uvloop

from bench.load import bodies
from bench.load.raw_http import LoadResult, load, post

BODIES = 64


def summary(result: LoadResult, warm_up_s: float) -> dict[str, object]:
    """What is told; the warm-up and the last, broken second are left out."""
    begun = int(warm_up_s)
    seconds = result.by_second[begun:-1]
    measured = sorted(result.latencies_ns[sum(result.by_second[:begun]) :])
    return {
        "seconds": seconds,
        "statuses": result.statuses,
        "unexpected": result.unexpected,
        "requests": result.requests,
        "p50_ms": measured[len(measured) // 2] / 1e6,
        "p99_ms": measured[int(len(measured) * 0.99)] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warm-up", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    path = f"/v1/queues/{given.queue}/jobs"
    requests = [
        post("bench", path, bodies.single("noop", bodies.payload(number)), given.key)
        for number in range(BODIES)
    ]
    result = uvloop.run(
        load(
            "127.0.0.1",
            given.port,
            requests,
            connections=given.connections,
            # Half a second more, so that the last whole second is measured to its end.
            seconds=given.warm_up + given.seconds + 0.5,
            expected=b'"status":"pending"',
        )
    )
    print(json.dumps(summary(result, given.warm_up)))


if __name__ == "__main__":
    main()
