"""A server on a free port, its stand-ins, and a client."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from taskforge_server.api.server import ApiPorts, ApiServer
from taskforge_server.engine.model.queue import JobQueue, QueueSettings
from taskforge_server.engine.model.tenant import api_key_text
from tests.support.answers import Answer
from tests.support.stub_engine import (
    NO_TENANTS,
    StubAudit,
    StubDeadLetters,
    StubEngine,
    StubJobs,
    StubKeys,
    StubLogs,
    StubProjects,
    StubQueues,
)
from tests.support.stub_workers import NO_WORKERS

PROJECT = b"p" * 16
OTHER_PROJECT = b"o" * 16
KEY = api_key_text(bytes(32))
OTHER_KEY = api_key_text(b"\1" * 32)
PAYLOAD_BYTES_MAX = 4096


@dataclass(slots=True)
class Fixture:
    """The server with all that stands behind it."""

    server: ApiServer
    port: int
    engine: StubEngine
    queues: StubQueues
    jobs: StubJobs
    logs: StubLogs
    keys: StubKeys
    reasons: list[str]
    session: aiohttp.ClientSession
    queue: JobQueue

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        key: str | None = KEY,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {key}"} if key is not None else {}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        # A file, since aiohttp warns of large bodies in one piece.
        data = None if body is None else io.BytesIO(body) if len(body) > 2**20 else body
        async with self.session.request(
            method, self.url + path, data=data, headers=sent, **options
        ) as response:
            endless = response.content_type == "text/event-stream"
            read = response.content.readany if endless else response.read
            return Answer(response.status, response.headers, await read())

    async def post(self, path: str, value: Any = None, **options: Any) -> Answer:
        body = b"" if value is None else json.dumps(value).encode()
        return await self.call("POST", path, body=body, **options)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    def work_off(self, **options: Any) -> int:
        return self.engine.work_off(self.queue.ref(), **options)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the server has come so far; the test's time limit bounds it."""
    while not condition():  # noqa: ASYNC110 - what the server does sets no event for tests
        await asyncio.sleep(0)


@pytest.fixture
async def api() -> AsyncIterator[Fixture]:
    engine, queues, jobs, keys = StubEngine(), StubQueues(), StubJobs(), StubKeys()
    logs = StubLogs()
    keys.add(KEY, PROJECT)
    keys.add(OTHER_KEY, OTHER_PROJECT)
    queue = await queues.create(PROJECT, "default", 3, QueueSettings())
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    reasons: list[str] = []
    server = ApiServer(
        ApiPorts(
            engine=engine,
            queues=queues,
            jobs=jobs,
            dead_letters=StubDeadLetters(),
            logs=logs,
            log_feed=logs,
            keys=keys,
            tenants=NO_TENANTS,
            workers=NO_WORKERS,
            projects=StubProjects(),
            audit=StubAudit(),
            registry=registry,
            ready=lambda: reasons,
            payload_bytes_max=PAYLOAD_BYTES_MAX,
        )
    )
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        yield Fixture(server, port, engine, queues, jobs, logs, keys, reasons, session, queue)
    await server.stop(1.0)
