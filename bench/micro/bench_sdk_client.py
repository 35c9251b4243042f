"""What a submit costs in the SDK's clients: latency of the call and CPU time, beside a bare answer.

The server is aiohttp that answers at once, in a process of its own; `bare` is a hand-written
request over one connection, the least that the call could take. Run it as a program:

    python -m bench.micro.bench_sdk_client [--calls N]
"""

import argparse
import asyncio
import multiprocessing
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe

import uvloop
from aiohttp import web

from taskforge import AsyncClient, Client, task

BODY = b'{"id":"01900000-0000-7000-8000-000000000000","status":"pending"}'


@task
async def greet(name: str) -> None:
    """Only submitted here."""


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=BODY, status=201, content_type="application/json")


async def _serve(pipe: Pipe) -> None:
    app = web.Application()
    app.router.add_post("/v1/queues/default/jobs", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    pipe.send(site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
    await asyncio.Event().wait()


def _server(pipe: Pipe) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvloop.run(_serve(pipe))


def show(name: str, latencies_s: list[float], cpu_s: float) -> None:
    """Print one line."""
    calls = len(latencies_s)
    p50, p99 = (statistics.quantiles(latencies_s, n=100)[at] * 1e6 for at in (49, 98))
    print(
        f"{name:9} p50 {p50:6.0f} µs  p99 {p99:6.0f} µs  {cpu_s / calls * 1e6:6.1f} µs CPU a call"
    )


async def measure(name: str, calls: int, call: Callable[[], Awaitable[object]]) -> None:
    """One call after the other."""
    latencies_s = []
    begun_cpu_s = time.process_time()
    for _ in range(calls):
        begun_s = time.perf_counter()
        await call()
        latencies_s.append(time.perf_counter() - begun_s)
    show(name, latencies_s, time.process_time() - begun_cpu_s)


async def measure_async(port: int, calls: int) -> None:
    """The bare request and the async client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"job_type":"greet","payload":{"name":"Ada"}}'
    head = (
        f"POST /v1/queues/default/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body

    async def bare() -> None:
        writer.write(request)
        await reader.readuntil(BODY)

    async with AsyncClient(f"http://127.0.0.1:{port}", "bench") as client:
        for _ in range(2):
            await measure("bare", calls, bare)
            await measure("async", calls, lambda: client.submit(greet, name="Ada"))
    writer.close()


def measure_blocking(port: int, calls: int) -> None:
    """The blocking client."""
    latencies_s = []
    begun_cpu_s = time.process_time()
    with Client(f"http://127.0.0.1:{port}", "bench") as client:
        for _ in range(calls):
            begun_s = time.perf_counter()
            client.submit(greet, name="Ada")
            latencies_s.append(time.perf_counter() - begun_s)
    show("blocking", latencies_s, time.process_time() - begun_cpu_s)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=5_000)
    calls = options.parse_args().calls
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=_server, args=(theirs,))
    server.start()
    port = mine.recv()
    uvloop.run(measure_async(port, calls))
    measure_blocking(port, calls)
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()
