"""Jobs that wait for other jobs: over HTTP, on two shards, through the death of nodes."""

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine import limits
from taskforge_server.engine.actors.worker import WorkerActor
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import acquire, connect
from tests.support.engine_parts import KeptOutlet, done
from tests.support.real_node import SHARDS, Hand, arrives, config_for, kill
from tests.support.tenancy import stranger

KEY = api_key_text(bytes(range(32)))
ERROR = json.dumps({"type": "E", "message": "m", "retryable": False}).encode()
JOB = {"job_type": "send", "payload": {}}
FAN = 10_000


class Place:
    """A node with its routes, two queues on two shards, and a worker in the hands of the test."""

    node: Node
    hand: Hand
    queues: dict[str, QueueRef]
    worker: WorkerActor
    outlet: KeptOutlet

    def __init__(self, url: str, project_id: bytes) -> None:
        self.url = url
        self.project_id = project_id
        self.queues = {}
        self.seq = 0
        self.done: set[bytes] = set()

    async def start(self) -> None:
        self.node = Node(
            config_for(self.url, lease_ttl_s=30.0),
            lambda node_id: MemoryCluster(Exchange(), node_id),
        )
        await self.node.start()
        self.hand = Hand(self.node, self.project_id)
        self.server = api_of(self.node)
        self.port = await self.server.start("127.0.0.1", 0)
        self.session = aiohttp.ClientSession()

    async def make_queues(self, **settings: Any) -> None:
        number = 0
        while len({ref.shard for ref in self.queues.values()}) < 2:
            name = "ab"[len(self.queues)] if len(self.queues) < 2 else f"q{number}"
            ref = await self.hand.queue(name, **settings)
            number += 1
            self.queues[name] = ref
            if len(self.queues) > 1 and ref.shard == self.queues["a"].shard:
                del self.queues[name]  # the other one is to be on another shard
                await self.node.queues.delete(self.project_id, ref.id, lambda: None)

    async def connect(self, running: bytes = b"", worker_id: bytes = b"") -> None:
        refs = list(self.queues.values())
        self.worker, self.outlet = await self.hand.worker(
            *refs, running=running, worker_id=worker_id
        )

    async def halt(self) -> None:
        """Nobody asks any more; the node still stands."""
        await self.session.close()
        await self.server.stop(0.1)

    async def stop(self) -> None:
        await self.halt()
        await self.node.stop()

    async def die(self) -> None:
        """As by SIGKILL; then another node takes over."""
        await self.halt()
        await kill(self.node)

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        async with self.session.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            headers=sent | (headers or {}),
            data=None if body is None else io.BytesIO(json.dumps(body).encode()),
        ) as response:
            text = await response.read()
            return response.status, json.loads(text) if text else None

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self.call(method, path, body)
        assert status in (200, 201), answer
        return answer

    async def graph(self, *jobs: dict[str, Any], **more: Any) -> dict[str, bytes]:
        """Submit; ids by ref."""
        wanted = [{"queue": "a", **JOB, **job} for job in jobs]
        for name, callback in more.items():
            more[name] = {"queue": "b", **JOB, **callback}
        found = await self.ok("POST", "/v1/graphs", {"jobs": wanted, **more})
        ids = {job["ref"]: uuid.UUID(job["id"]).bytes for job in found["jobs"]}
        ids |= {name: uuid.UUID(found[name]).bytes for name in more}
        return ids

    def started(self) -> list[bytes]:
        """Jobs that came to the worker and were not ended by it, in their order."""
        return [t[:16] for t in self.outlet.tokens() if t not in self.done]

    async def starts(self, *job_ids: bytes) -> None:
        await arrives(self.outlet, lambda: set(job_ids) <= set(self.started()))

    async def end(self, *job_ids: bytes, error: bytes | None = None, result: bytes = b"") -> None:
        """These, running, end: well, or with this error."""
        tokens = [t for t in self.outlet.tokens() if t[:16] in job_ids and t not in self.done]
        assert len(tokens) == len(job_ids)
        self.done.update(tokens)
        self.seq += 1
        kind, data = (0, result or None) if error is None else (1, error)
        await self.worker.receive([done(self.seq, b"", *((t, kind, data) for t in tokens))])
        await arrives(
            self.outlet, lambda: any(frame[1] == self.seq for frame in self.outlet.of(12))
        )

    async def status(self, job_id: bytes) -> str:
        return str((await self.ok("GET", f"/v1/jobs/{uuid.UUID(bytes=job_id)}"))["status"])

    async def ended(self, job_id: bytes) -> dict[str, Any]:
        found: dict[str, Any] = await self.ok("GET", f"/v1/jobs/{uuid.UUID(bytes=job_id)}?wait=10s")
        return found

    async def settled(self) -> None:
        """Every look that is to be taken is taken, and durable."""
        while self.node.core.dependencies.busy or self.node.journal._dirty:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await self.node.journal.settle()


async def prepared(url: str) -> bytes:
    connection = await connect(url, application_name="test")
    try:
        return (await bootstrap(connection, SHARDS, KEY)).project_id
    finally:
        await connection.close()


@asynccontextmanager
async def at(url: str, **settings: Any) -> AsyncIterator[Place]:
    place = Place(url, await prepared(url))
    await place.start()
    try:
        await place.make_queues(**settings)
        await place.connect()
        yield place
    finally:
        await place.stop()


def parents(*refs: str, on_failure: str = "block") -> list[dict[str, str]]:
    return [{"ref": ref, "on_failure": on_failure} for ref in refs]


async def test_children_start_after_their_parents_on_two_shards(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        ids = await place.graph(
            {"ref": "top"},
            {"ref": "left", "queue": "b", "parents": parents("top")},
            {"ref": "right", "parents": parents("top")},
            {"ref": "foot", "queue": "b", "parents": parents("left", "right")},
            on_success={},
            on_complete={},
        )
        await place.starts(ids["top"])
        assert place.started() == [ids["top"]]
        foot = await place.ok("GET", f"/v1/jobs/{uuid.UUID(bytes=ids['foot'])}")
        assert (foot["status"], foot["scheduled_for"], foot["waiting_on"]) == ("scheduled", None, 2)
        await place.end(ids["top"], result=b'{"n": 1}')
        await place.starts(ids["left"], ids["right"])
        await place.end(ids["left"], result=b"2")
        await place.settled()
        assert place.started() == [ids["right"]]
        await place.end(ids["right"])
        await place.starts(ids["foot"])
        listed = await place.ok("GET", f"/v1/jobs/{uuid.UUID(bytes=ids['foot'])}/parents")
        found = {item["ref"]: item for item in listed["items"]}
        assert found.keys() == {"left", "right"}
        assert (found["left"]["result"], found["left"]["satisfied"]) == (2, True)
        assert place.started() == [ids["foot"]]
        await place.end(ids["foot"])
        await place.starts(ids["on_success"], ids["on_complete"])
        await place.end(ids["on_success"], ids["on_complete"])
        rows = await place.hand.rows("jobs")
        assert {row["status"] for row in rows} == {"succeeded"}
        assert {row["waiting_on"] for row in rows} == {None}
        edges = await place.node.pool.fetch("SELECT * FROM job_dependencies")
        assert len(edges) == 4 + 2 * 4


@pytest.mark.parametrize("history", ["all", "none"])
async def test_what_the_failure_of_a_parent_means(postgres_url: str, history: str) -> None:
    async with at(postgres_url, history=history, retry_policy={"max_attempts": 1}) as place:
        ids = await place.graph(
            {"ref": "bad"},
            {"ref": "waits", "queue": "b", "parents": parents("bad")},
            {"ref": "falls", "queue": "b", "parents": parents("bad", on_failure="cancel")},
            {"ref": "below", "parents": parents("falls", on_failure="cancel")},
            {"ref": "goes", "queue": "b", "parents": parents("bad", on_failure="run_anyway")},
        )
        await place.starts(ids["bad"])
        await place.end(ids["bad"], error=ERROR)
        await place.starts(ids["goes"])
        if history == "all":
            assert (await place.ended(ids["below"]))["cancel_reason"] == "parent_failed"
        await place.settled()
        await place.hand.rows("jobs")  # what keeps no row is gone
        assert place.started() == [ids["goes"]]
        assert await place.status(ids["waits"]) == "scheduled"
        assert await place.status(ids["bad"]) == "failed"
        # Retried, the parent may yet succeed.
        await place.ok("POST", f"/v1/jobs/{uuid.UUID(bytes=ids['bad'])}/retry")
        await place.starts(ids["bad"])
        await place.settled()
        assert ids["waits"] not in place.started()
        await place.end(ids["bad"])
        await place.starts(ids["waits"])


async def test_the_hand_over_survives_the_death_of_the_node(postgres_url: str) -> None:
    """Killed with the parent's end durable and the child not told; and before it."""
    place = Place(postgres_url, await prepared(postgres_url))
    await place.start()
    await place.make_queues()
    await place.connect()
    ids = await place.graph(
        {"ref": "one"},
        {"ref": "two"},
        {"ref": "child", "queue": "b", "parents": parents("one", "two")},
    )
    await place.starts(ids["one"], ids["two"])
    await place.node._background.stop("dependencies")  # the hand-over does not come
    await place.end(ids["one"])
    held, worker_id = place.outlet.tokens(), place.worker.hello.worker_id
    held = [token for token in held if token not in place.done]
    assert await place.status(ids["child"]) == "scheduled"
    await place.die()
    await place.start()
    await place.connect(b"".join(held), worker_id)
    await place.settled()
    assert await place.status(ids["child"]) == "scheduled"
    assert len(place.node.graphs.missing(ids["child"])) == 1
    await place.node._background.stop("dependencies")  # the hand-over does not come
    place.seq = 1
    await place.worker.receive([done(1, b"".join(held))])
    await arrives(place.outlet, lambda: place.outlet.of(12))
    await place.die()
    await place.start()
    await place.connect()
    await place.starts(ids["child"])
    await place.end(ids["child"])
    rows = await place.hand.rows("jobs")
    assert {row["status"] for row in rows} == {"succeeded"}
    assert len(await place.node.pool.fetch("SELECT * FROM job_dependencies")) == 2
    await place.stop()


async def test_ends_that_nobody_told_of_are_found_by_the_sweep(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        ids = await place.graph({"ref": "a"}, {"ref": "b", "queue": "b", "parents": parents("a")})
        await place.starts(ids["a"])
        await place.settled()
        dependencies = place.node.core.dependencies
        shard = place.node.core.shards[place.queues["a"].shard]
        shard.unwatch(ids["a"], dependencies._watched[ids["a"]])  # the word gets lost
        await place.end(ids["a"])
        await place.settled()
        assert place.started() == []
        dependencies.sweep()
        await place.starts(ids["b"])


async def test_parents_on_ordinary_submits(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        first = await place.ok("POST", "/v1/queues/a/jobs", JOB)
        first_id = uuid.UUID(first["id"]).bytes
        wanted = {**JOB, "parents": [{"job_id": first["id"]}]}
        child = await place.ok("POST", "/v1/queues/b/jobs", wanted)
        assert child["status"] == "scheduled"
        again = await place.ok("POST", "/v1/queues/b/jobs", wanted)  # by the short way
        unknown = str(uuid.uuid4())
        many = await place.ok(
            "POST",
            "/v1/queues/b/jobs/batch",
            {"jobs": [JOB, {**JOB, "parents": [{"job_id": unknown}]}, wanted]},
        )
        assert [result.get("status") for result in many["results"]] == [
            "pending", None, "scheduled",
        ]  # fmt: skip
        problem = many["results"][1]["error"]
        assert (problem["status"], problem["field"]) == (404, "jobs[1].parents[0].job_id")
        children = [uuid.UUID(each["id"]).bytes for each in (child, again, many["results"][2])]
        await place.starts(first_id)
        assert not set(children) & set(place.started())
        await place.end(first_id)
        await place.starts(*children)
        # A parent that has succeeded already holds nobody up.
        late = await place.ok("POST", "/v1/queues/b/jobs", wanted)
        assert late["status"] == "pending"
        await place.starts(uuid.UUID(late["id"]).bytes)
        listed = await place.ok("GET", f"/v1/jobs/{late['id']}/parents")
        assert [item["id"] for item in listed["items"]] == [first["id"]]
        await place.node.projector.flush()
        assert await place.ok("GET", f"/v1/jobs/{late['id']}/parents") == listed


async def test_foreign_jobs_and_cycles_are_refused(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        async with acquire(place.node.pool) as connection:
            _, theirs = await stranger(connection)
        foreign = Hand(place.node, theirs)
        (foreign_id,) = await foreign.submit(await foreign.queue("q"))
        named = str(uuid.UUID(bytes=foreign_id))
        for body in ({**JOB, "parents": [{"job_id": named}]},):
            assert (await place.call("POST", "/v1/queues/a/jobs", body))[0] == 404
        status, problem = await place.call(
            "POST",
            "/v1/graphs",
            {"jobs": [{"ref": "x", "queue": "a", **JOB, "parents": [{"job_id": named}]}]},
        )
        assert (status, problem["code"]) == (404, "job_not_found")
        assert problem["field"] == "jobs[0].parents[0].job_id"
        status, problem = await place.call(
            "POST",
            "/v1/graphs",
            {
                "jobs": [
                    {"ref": "x", "queue": "a", **JOB, "parents": parents("z")},
                    {"ref": "y", "queue": "a", **JOB, "parents": parents("x")},
                    {"ref": "z", "queue": "a", **JOB, "parents": parents("y")},
                ]
            },
        )
        assert (status, problem["code"]) == (422, "dependency_cycle")
        assert "x -> y -> z -> x" in problem["detail"] or "z -> " in problem["detail"]
        for path in ("parents", "graph"):
            assert (await place.call("GET", f"/v1/jobs/{named}/{path}"))[0] == 404
        other = {"parents": [{"job_id": str(uuid.uuid4())}]}
        assert (await place.call("POST", f"/v1/jobs/{named}/parents", other))[0] == 404
        assert {row["project_id"] for row in await place.hand.rows("jobs")} == {theirs}


async def test_too_many_edges_are_refused_before_any_parent_is_looked_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GRAPH_EDGES_MAX", 3)
    async with at(postgres_url) as place:
        unknown = [{"job_id": str(uuid.uuid4())} for _ in range(3)]
        one = {"ref": "x", "queue": "a", **JOB, "parents": unknown}
        status, problem = await place.call("POST", "/v1/graphs", {"jobs": [one]})
        assert (status, problem["code"]) == (404, "job_not_found")
        callback = {"queue": "a", **JOB}
        body = {"jobs": [one], "on_complete": callback}
        status, problem = await place.call("POST", "/v1/graphs", body)
        assert (status, problem["field"]) == (413, "jobs")
        many = {**JOB, "parents": [{"job_id": str(uuid.uuid4())} for _ in range(4)]}
        status, problem = await place.call("POST", "/v1/queues/a/jobs", many)
        assert (status, problem["field"]) == (413, "parents")


async def test_a_job_that_waits_is_given_more_parents(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        ids = await place.graph(
            {"ref": "a"}, {"ref": "b", "queue": "b"}, {"ref": "c", "delay_s": 3600}
        )
        texts = {ref: str(uuid.UUID(bytes=job_id)) for ref, job_id in ids.items()}
        await place.starts(ids["a"], ids["b"])

        def add(child: str, parent: str) -> Any:
            body = {"parents": [{"job_id": texts[parent]}]}
            return place.call("POST", f"/v1/jobs/{texts[child]}/parents", body)

        status, job = await add("c", "a")
        assert (status, job["waiting_on"], job["scheduled_for"]) == (200, 1, None)
        status, job = await add("c", "b")
        assert (status, job["waiting_on"]) == (200, 2)
        assert (await add("c", "b"))[1]["waiting_on"] == 2
        status, problem = await add("a", "b")
        assert (status, problem["code"]) == (409, "job_not_waiting")
        child = await place.graph({"ref": "d", "parents": [{"job_id": texts["c"]}]})
        texts["d"] = str(uuid.UUID(bytes=child["d"]))
        status, problem = await add("c", "d")
        assert (status, problem["code"]) == (422, "dependency_cycle")
        assert problem["detail"].count(texts["c"]) == 2
        await place.end(ids["a"], ids["b"])
        await place.settled()
        job = await place.ok("GET", f"/v1/jobs/{texts['c']}")
        assert (job["waiting_on"], job["status"]) == (None, "scheduled")
        assert job["scheduled_for"] is not None  # its own time is still to come
        shown = await place.ok("GET", f"/v1/jobs/{texts['a']}/graph")
        assert {node["id"] for node in shown["nodes"]} == set(texts.values())
        assert len(shown["edges"]) == 3
        assert shown["cut"] is False
        part = await place.ok("GET", f"/v1/jobs/{texts['a']}/graph?limit=2")
        assert (len(part["nodes"]), part["cut"]) == (2, True)


async def test_a_repetition_gets_the_first_ids(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        body = {
            "jobs": [
                {"ref": "a", "queue": "a", **JOB},
                {"ref": "b", "queue": "b", **JOB, "parents": parents("a")},
            ]
        }
        key = {"Idempotency-Key": "once"}
        first = await place.call("POST", "/v1/graphs", body, key)
        assert first[0] == 201
        assert await place.call("POST", "/v1/graphs", body, key) == first
        await place.starts(uuid.UUID(first[1]["jobs"][0]["id"]).bytes)
        assert len(await place.hand.rows("jobs")) == 2
        body["jobs"].pop()
        assert (await place.call("POST", "/v1/graphs", body, key))[0] == 409


async def test_a_graph_is_durable_whole_or_not_at_all(postgres_url: str) -> None:
    """The node dies while the append of both shards is under way; or one of them is another's."""
    place = Place(postgres_url, await prepared(postgres_url))
    await place.start()
    await place.make_queues()
    await place.connect()
    jobs = [
        {"ref": "a", "queue": "a", **JOB},
        {"ref": "b", "queue": "b", **JOB, "parents": parents("a")},
    ]
    # Somebody else has written in one of the two logs: nothing may come into the other.
    shard = place.queues["b"].shard
    await place.node.pool.execute(
        "INSERT INTO shard_log (shard, lsn, epoch, events, body)"
        " SELECT shard, lsn + 1, epoch, events, body FROM shard_log"
        " WHERE shard = $1 ORDER BY lsn DESC LIMIT 1",
        shard,
    )
    status, _ = await place.call("POST", "/v1/graphs", {"jobs": jobs})
    assert status in (503, 504)
    await place.settled()
    assert await place.hand.rows("jobs") == []
    await place.stop()


async def test_a_parent_whose_queue_keeps_nothing_stays_while_children_wait(
    postgres_url: str,
) -> None:
    async with at(postgres_url, history="none") as place:
        ids = await place.graph(
            {"ref": "a"},
            {"ref": "x"},
            {"ref": "b", "queue": "b", "parents": parents("a", "x")},
        )
        await place.starts(ids["a"], ids["x"])
        await place.end(ids["a"], result=b'"kept"')
        await place.settled()
        rows = {row["id"]: row for row in await place.hand.rows("jobs")}
        assert rows[ids["a"]]["status"] == "succeeded"
        await place.end(ids["x"])
        await place.starts(ids["b"])
        listed = await place.ok("GET", f"/v1/jobs/{uuid.UUID(bytes=ids['b'])}/parents")
        assert {item["ref"]: item["result"] for item in listed["items"]} == {"a": "kept", "x": None}
        await place.end(ids["b"])
        await place.hand.rows("jobs")
        await place.node.expire_edges(0.0)
        assert await place.hand.rows("jobs") == []
        assert await place.node.pool.fetch("SELECT * FROM job_dependencies") == []


async def test_a_worker_reads_the_results_of_parents_under_its_lease(postgres_url: str) -> None:
    async with at(postgres_url) as place:
        ids = await place.graph({"ref": "a"}, {"ref": "b", "parents": parents("a")})
        await place.starts(ids["a"])
        await place.end(ids["a"], result=b"[1]")
        await place.starts(ids["b"])
        token = place.outlet.tokens()[-1]
        worker, lease = place.worker.hello.worker_id, int.from_bytes(token[16:])

        def path(worker_id: bytes, lease: int) -> str:
            job = uuid.UUID(bytes=ids["b"])
            return f"/v1/workers/{uuid.UUID(bytes=worker_id)}/jobs/{job}/parents?lease={lease}"

        found = await place.ok("GET", path(worker, lease))
        assert [item["result"] for item in found["items"]] == [[1]]
        for wrong in (path(b"x" * 16, lease), path(worker, lease + 1)):
            assert (await place.call("GET", wrong))[0] == 404
        await place.end(ids["b"])
        assert (await place.call("GET", path(worker, lease)))[0] == 404


async def test_ten_thousand_out_and_in_again_over_http(postgres_url: str) -> None:
    """One request, all edges in the tables, and one look that counts what is missing."""
    async with at(postgres_url) as place:
        refs = [str(n) for n in range(FAN)]
        middle = [{"ref": ref, "queue": "b", "parents": parents("root")} for ref in refs]
        place.worker.detach()
        place.worker, place.outlet = await place.hand.worker(*place.queues.values(), credit=2 * FAN)
        sink = {"ref": "sink", "parents": parents(*refs)}
        ids = await place.graph({"ref": "root"}, *middle, sink, on_success={})
        await place.starts(ids["root"])
        await place.end(ids["root"], result=b"1")
        await arrives(place.outlet, lambda: len(place.outlet.tokens()) == FAN + 1)
        half = [ids[ref] for ref in refs[::2]]
        await place.end(*half)
        await place.settled()
        look = await place.ok("GET", f"/v1/jobs/{uuid.UUID(bytes=ids['sink'])}/graph")
        (shown,) = (node for node in look["nodes"] if node["ref"] == "sink")
        assert (shown["status"], shown["waiting_on"], look["cut"]) == ("scheduled", FAN / 2, True)
        await place.end(*(ids[ref] for ref in refs[1::2]))
        await place.starts(ids["sink"])
        await place.end(ids["sink"])
        await place.starts(ids["on_success"])
        await place.node.projector.flush()
        found = await place.node.pool.fetch(
            "SELECT count(*) AS edges FROM job_dependencies GROUP BY child_job_id ORDER BY 1 DESC"
        )
        assert [row["edges"] for row in found[:3]] == [FAN + 2, FAN, 1]
        assert len(found) == FAN + 2
