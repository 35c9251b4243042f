"""One connection, single submits one after another: a blocking socket, so that the client adds
next to nothing to the call. With `--every` a job begins each so many seconds, of the type `stamp`,
whose payload says when its call began; without, the next call begins when the last one ended.

Prints a JSON object: the latencies of the calls after the warm-up.
"""

import argparse
import json
import socket
import time
from array import array
from collections.abc import Callable

from bench.load import bodies
from bench.load.raw_http import HEAD_END, complete_status, post

PENDING = b'"status":"pending"'


def call(connection: socket.socket, request: bytes) -> None:
    """One request and its whole reply, which must say that the job is there."""
    connection.sendall(request)
    reply = connection.recv(65536)
    while not (status := complete_status(reply)):
        reply += connection.recv(65536)
    if status != 201 or PENDING not in reply:
        raise RuntimeError(f"unexpected reply {reply!r}")


def stamped(head: bytes) -> Callable[[], bytes]:
    """Requests that say when they were made; their length is always the same."""

    def make() -> bytes:
        return head + bodies.single("stamp", bodies.stamp_payload(time.monotonic_ns()))

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--warm-up", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    path = f"/v1/queues/{given.queue}/jobs"
    noop = post("bench", path, bodies.single("noop", bodies.payload(0)), given.key)
    stamp = post("bench", path, bodies.single("stamp", bodies.stamp_payload(0)), given.key)
    make = stamped(stamp[: stamp.index(HEAD_END) + 4]) if given.every else lambda: noop
    connection = socket.create_connection(("127.0.0.1", given.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    latencies_ns, warm_up_calls = array("q"), 0
    begun = due = time.monotonic()
    while (now := time.monotonic()) < begun + given.warm_up + given.seconds:
        if given.every:
            time.sleep(max(0.0, due - now))
            due += given.every
        warm_up_calls += now < begun + given.warm_up
        before = time.monotonic_ns()
        call(connection, make())
        latencies_ns.append(time.monotonic_ns() - before)
    print(json.dumps({"warm_up_calls": warm_up_calls, "latencies_ns": list(latencies_ns)}))


if __name__ == "__main__":
    main()
