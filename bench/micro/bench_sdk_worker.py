"""What a job costs in the SDK's worker: CPU time of the worker process per no-op job.

The jobs come from a stub of the server in a process of its own, which sends frames as the worker's
credit allows and acknowledges what comes back. Run it as a program:

    python -m bench.micro.bench_sdk_worker [--profile] [--jobs N] [--handler NAME]
"""

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import msgspec
import uvloop
from aiohttp import WSMsgType, web

from taskforge import Context, Task, task
from taskforge.worker import Worker

FRAME_JOBS = 500
PAYLOAD = b'{"data":"' + b"x" * 38 + b'","number":1234}'
TOKEN_BYTES = 24


@task
async def typed(data: str, number: int) -> None:
    """The usual shape: arguments from the payload, no result."""


@task
async def result(data: str, number: int) -> int:
    """Returns something."""
    return number


@task
async def context(ctx: Context, data: str, number: int) -> None:
    """Asks for its context."""


@task
async def suspends(data: str, number: int) -> None:
    """Gives the loop a turn, as a handler with I/O would."""
    await asyncio.sleep(0)


@task
def sync(data: str, number: int) -> None:
    """Runs in a thread."""


TASKS: list[Task[..., Any]] = [typed, result, context, suspends, sync]


class Source:
    """Sends `jobs_max` jobs to one worker, then tells the parent."""

    def __init__(self, name: str, jobs_max: int, pipe: Pipe) -> None:
        self.name = name
        self.jobs_max = jobs_max
        self.pipe = pipe
        self.sent = 0
        self.ended = 0
        self.credit = 0

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """One worker's connection."""
        encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)
        self.credit = decode(await socket.receive_bytes())[1]["credit"]
        body = {"protocol": 1, "lease_ttl_s": 30.0, "heartbeat_s": 10.0}
        await socket.send_bytes(encode([10, body]))
        while self.sent < self.jobs_max or self.ended < self.sent:
            while self.sent < self.jobs_max and self.sent - self.ended < self.credit:
                count = min(
                    FRAME_JOBS, self.credit - self.sent + self.ended, self.jobs_max - self.sent
                )
                tokens = b"".join(
                    (self.sent + index).to_bytes(TOKEN_BYTES, "big") for index in range(count)
                )
                frame = [11, "default", [self.name], b"", tokens, [PAYLOAD] * count, {}]
                self.sent += count
                await socket.send_bytes(encode(frame))
            message = await socket.receive()
            if message.type is not WSMsgType.BINARY:
                break
            got = decode(message.data)
            if got[0] == 2:
                self.credit = got[1]
            elif got[0] == 3:
                self.ended += len(got[2]) // TOKEN_BYTES + len(got[3])
                await socket.send_bytes(encode([12, got[1], b""]))
        self.pipe.send(self.ended)
        async for _ in socket:
            pass
        return socket

    async def serve(self) -> None:
        """Listen until the process is ended."""
        app = web.Application()
        app.router.add_get("/v1/workers/stream", self.stream)
        app.router.add_post("/v1/workers/{id}/heartbeat", _no_content)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.pipe.send(site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
        await asyncio.Event().wait()


async def _no_content(_: web.Request) -> web.Response:
    return web.Response(status=204)


def _source(name: str, jobs_max: int, pipe: Pipe) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvloop.run(Source(name, jobs_max, pipe).serve())


def measure(name: str, jobs_max: int, profile: cProfile.Profile | None = None) -> dict[str, float]:
    """Run the jobs of one handler through a worker: CPU microseconds and wall time a job."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    source = context.Process(target=_source, args=(name, jobs_max, theirs))
    source.start()
    port = mine.recv()
    worker = Worker(f"http://127.0.0.1:{port}", "bench", TASKS)

    async def work() -> tuple[float, float]:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(mine.fileno(), ended.set)
        begun_cpu_s, begun_s = _cpu_s(), time.perf_counter()
        serving = asyncio.create_task(worker.serve())
        await ended.wait()
        used = _cpu_s() - begun_cpu_s, time.perf_counter() - begun_s
        loop.remove_reader(mine.fileno())
        worker.stop()
        await serving
        return used

    if profile is not None:
        profile.enable()
    cpu_s, wall_s = uvloop.run(work())
    if profile is not None:
        profile.disable()
    assert mine.recv() == jobs_max
    source.terminate()
    source.join()
    return {"cpu_us": cpu_s / jobs_max * 1e6, "jobs_s": jobs_max / wall_s}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=1_000_000)
    options.add_argument("--handler", choices=[item.name for item in TASKS])
    options.add_argument("--profile", action="store_true")
    given = options.parse_args()
    profile = cProfile.Profile() if given.profile else None
    for item in TASKS:
        if given.handler in (None, item.name):
            slow = item in (suspends, sync)
            jobs = given.jobs // 10 if slow else given.jobs
            found = measure(item.name, jobs, profile)
            print(f"{item.name:9} {found['cpu_us']:6.2f} µs/job  {found['jobs_s']:9,.0f} jobs/s")
    if profile is not None:
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
