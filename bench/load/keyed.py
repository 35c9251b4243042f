"""A load client for many queues: batches with a job of each group key, to one queue after another.

Stops after `--jobs` jobs, or on SIGTERM; prints a JSON object at its end.
"""

import argparse
import asyncio
import json
import signal
from dataclasses import asdict

import msgspec
import uvloop

from bench.load.batches import MSGPACK, Http, Totals, Window, submit
from bench.load.bodies import payload
from bench.load.raw_http import post


def body(keys: int) -> bytes:
    """A job of each key."""
    jobs = [
        {"job_type": "noop", "payload": payload(number), "group_key": f"key-{number}"}
        for number in range(keys)
    ]
    return msgspec.msgpack.encode({"jobs": jobs})


async def run(options: argparse.Namespace) -> Totals:
    window, seen = Window(0, options.jobs), Totals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, window.stop)
    content = body(options.keys)
    requests = [
        post("bench", f"/v1/queues/queue-{number}/jobs/batch", content, options.key, *MSGPACK)
        for number in range(options.queues)
    ]
    async with asyncio.TaskGroup() as tasks:
        for number in range(options.connections):
            at = number * options.queues // options.connections
            mine = requests[at:] + requests[:at]
            http = await Http.open(options.port)
            tasks.create_task(submit(http, mine, options.keys, window, seen))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--queues", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--jobs", type=int, required=True)
    totals = asdict(uvloop.run(run(parser.parse_args())))
    del totals["calls_ms"]
    print(json.dumps(totals))


if __name__ == "__main__":
    main()
