"""A stand-in for the server's REST API, in memory, for tests of clients.

It keeps to the wire: routes, codings, problems, idempotency. It has no rules of jobs: the test ends
them by `finish`. `faults` are eaten from the left, one a request: an HTTP status to answer with, or
`lose_request`, `lose_reply` to cut the connection before or after the work is done.
"""

import asyncio
import base64
import socket
import threading
import uuid
from typing import Any, Literal

import msgspec
from aiohttp import web

Fault = int | Literal["lose_request", "lose_reply"]
PROBLEM = "application/problem+json"
MSGPACK = "application/msgpack"


class StubApi:
    """The API on a free port of the loopback, in a thread of its own, so that blocking clients can
    be tested too. What it received may be read while no request is under way."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.queues: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.keys: list[str | None] = []
        self.faults: list[Fault] = []
        self.retry_after = "0"
        self.page_jobs = 3
        self.connections = 0
        self.close_after_reply = False
        self.url = ""
        self._replies: dict[str, tuple[bytes, web.Response]] = {}
        self._ended = asyncio.Condition()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "StubApi":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def finish(self, job_id: str, status: str, **fields: Any) -> None:
        """End a job, and wake who waits for it."""

        async def end() -> None:
            async with self._ended:
                self.jobs[job_id].update(status=status, **fields)
                self._ended.notify_all()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(20)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        app = web.Application(middlewares=[self._middleware], client_max_size=1 << 26)
        router = app.router
        router.add_post("/v1/queues/{queue}/jobs", self._submit)
        router.add_post("/v1/queues/{queue}/jobs/batch", self._batch)
        router.add_get("/v1/jobs", self._list)
        router.add_get("/v1/jobs/{id}", self._get)
        router.add_post("/v1/jobs/{id}/{verb:cancel|retry}", self._change)
        router.add_post("/v1/queues", self._create_queue)
        router.add_get("/v1/queues", self._list_queues)
        router.add_get("/v1/queues/{queue}", self._get_queue)
        router.add_patch("/v1/queues/{queue}", self._update_queue)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listening).start()
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        self.keys.append(request.headers.get("Idempotency-Key"))
        if request.headers.get("Authorization") != "Bearer key":
            return problem(401, "unauthenticated", "give a valid key")
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return problem(fault, "overloaded", "later", retry_after=self.retry_after)
        if fault == "lose_request":
            return self._cut(request)
        response: web.Response = await self._once(request, handler)
        if fault == "lose_reply":
            return self._cut(request)
        if self.close_after_reply:
            response.force_close()
        return response

    def _cut(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _once(self, request: web.Request, handler: Any) -> web.Response:
        """Answer a repeated key as the first time."""
        key = request.headers.get("Idempotency-Key")
        body = await request.read()
        if key is not None and key in self._replies:
            first, old = self._replies[key]
            if first != body:
                return problem(409, "idempotency_key_reused", "another body", "Idempotency-Key")
            return web.Response(body=old.body, status=old.status, headers=old.headers)
        made: web.Response = await handler(request)
        if key is not None:
            self._replies[key] = body, made
        return made

    # --- jobs

    def _new_job(self, queue: str, body: dict[str, Any]) -> dict[str, Any]:
        job = {
            "queue": queue,
            "status": "pending",
            "created_at": "2026-01-01T00:00:00Z",
            "attempts": 0,
            "unknown_to_old_clients": 1,
            **body,
            "id": str(uuid.UUID(int=len(self.jobs) + 1)),
        }
        self.jobs[job["id"]] = job
        return job

    async def _submit(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        queue = request.match_info["queue"]
        if queue == "missing":
            return problem(404, "queue_not_found", "no such queue", "queue")
        if not 0 <= body.get("priority", 0) <= 9:
            return problem(422, "invalid_input", "0 to 9", "priority")
        job = self._new_job(queue, body)
        return reply({"id": job["id"], "status": job["status"]}, 201)

    async def _batch(self, request: web.Request) -> web.Response:
        assert request.content_type == MSGPACK
        ids, errors = bytearray(), {}
        for index, body in enumerate(msgspec.msgpack.decode(await request.read())["jobs"]):
            if not 0 <= body.get("priority", 0) <= 9:
                field = f"jobs[{index}].priority"
                error = {"status": 422, "code": "invalid_input", "detail": "0 to 9", "field": field}
                errors[index] = error
                ids += bytes(16)
                continue
            body["payload"] = msgspec.json.decode(body["payload"])
            ids += uuid.UUID(self._new_job(request.match_info["queue"], body)["id"]).bytes
        body = msgspec.msgpack.encode({"ids": bytes(ids), "errors": errors})
        return web.Response(body=body, content_type=MSGPACK)

    async def _get(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return problem(404, "job_not_found", "this project has no such job", "job_id")
        wait_s = int(request.query.get("wait", "0ms").removesuffix("ms")) / 1000
        try:
            async with asyncio.timeout(wait_s), self._ended:
                await self._ended.wait_for(
                    lambda: job["status"] in ("succeeded", "failed", "cancelled")
                )
        except TimeoutError:
            pass
        return reply({**job, "executions": [{"id": "e", "attempt": 1, "status": "started"}]})

    async def _list(self, request: web.Request) -> web.Response:
        names = ("queue", "status", "job_type")
        found = [
            job
            for job in reversed(self.jobs.values())
            if all(job[name] == request.query.get(name, job[name]) for name in names)
        ]
        start = int(base64.b64decode(request.query.get("cursor", "MA==")))
        end = start + self.page_jobs
        cursor = base64.b64encode(str(end).encode()).decode() if end < len(found) else None
        return reply({"items": found[start:end], "next_cursor": cursor})

    async def _change(self, request: web.Request) -> web.Response:
        job, verb = self.jobs[request.match_info["id"]], request.match_info["verb"]
        if verb == "cancel" and job["status"] not in ("pending", "cancelled"):
            return problem(409, "job_not_cancellable", "only a job that waits can be cancelled")
        job["status"] = "cancelled" if verb == "cancel" else "pending"
        return reply(job)

    # --- queues

    async def _create_queue(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        if body["name"] in self.queues:
            return problem(409, "queue_name_taken", "there is one", "name")
        self.queues[body["name"]] = {
            "settings": {},
            "counts": {"pending": 1, "scheduled": 2, "processing": 3},
            **body,
        }
        return reply(self.queues[body["name"]], 201)

    async def _list_queues(self, _: web.Request) -> web.Response:
        return reply({"items": list(self.queues.values()), "next_cursor": None})

    async def _get_queue(self, request: web.Request) -> web.Response:
        queue = self.queues.get(request.match_info["queue"])
        return reply(queue) if queue else problem(404, "queue_not_found", "no such queue", "queue")

    async def _update_queue(self, request: web.Request) -> web.Response:
        queue = self.queues[request.match_info["queue"]]
        body = msgspec.json.decode(await request.read())
        queue["settings"] |= body.pop("settings", {})
        queue.update(body)
        return reply(queue)


def reply(body: dict[str, Any], status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def problem(
    status: int, code: str, detail: str, field: str | None = None, retry_after: str | None = None
) -> web.Response:
    """A problem document."""
    body = {"type": f"/problems/{code}", "title": code, "status": status, "code": code}
    body |= {"detail": detail} | ({"field": field} if field else {})
    headers = {"Retry-After": retry_after} if retry_after else {}
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type=PROBLEM, headers=headers
    )
