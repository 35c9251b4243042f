"""A load client for many queues: batches with a job of each group key, to one queue after another.

The window is that of `batches`; how many jobs are over it learns from the node's metrics.
"""

import argparse
import asyncio
import json
import re
import signal
from dataclasses import asdict

import msgspec
import uvloop

from bench.load.batches import MSGPACK, POLL_S, Http, Totals, Window, get, submit
from bench.load.bodies import payload
from bench.load.raw_http import post

SUCCEEDED = re.compile(rb"^taskforge_jobs_succeeded_total (\S+)$", re.MULTILINE)


def body(keys: int) -> bytes:
    """A job of each key."""
    jobs = [
        {"job_type": "noop", "payload": payload(number), "group_key": f"key-{number}"}
        for number in range(keys)
    ]
    return msgspec.msgpack.encode({"jobs": jobs})


async def watch(http: Http, request: bytes, window: Window) -> None:
    while True:
        status, text = await http.call(request)
        found = SUCCEEDED.search(text)
        if status != 200 or found is None:
            raise RuntimeError(f"status {status}: {text[:500]!r}")
        window.learn(round(float(found.group(1))))
        await asyncio.sleep(POLL_S)


async def run(options: argparse.Namespace) -> Totals:
    window, seen = Window(options.window, 0), Totals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, window.stop)
    content = body(options.keys)
    requests = [
        post("bench", f"/v1/queues/queue-{number}/jobs/batch", content, options.key, *MSGPACK)
        for number in range(options.queues)
    ]
    async with asyncio.TaskGroup() as tasks:
        submits = []
        for number in range(options.connections):
            at = number * options.queues // options.connections
            mine = requests[at:] + requests[:at]
            http = await Http.open(options.port)
            submits.append(tasks.create_task(submit(http, mine, options.keys, window, seen)))
        watcher = tasks.create_task(
            watch(await Http.open(options.port), get("/metrics", options.key), window)
        )
        await asyncio.wait(submits, return_when=asyncio.FIRST_EXCEPTION)
        watcher.cancel()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--queues", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--window", type=int, required=True)
    totals = asdict(uvloop.run(run(parser.parse_args())))
    del totals["calls_ms"]
    print(json.dumps(totals))


if __name__ == "__main__":
    main()
