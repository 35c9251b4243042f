"""The program of the guide for graphs, and graphs from both clients, with real workers."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from taskforge import (
    AsyncClient,
    Client,
    Conflict,
    Context,
    FatalError,
    Graph,
    InvalidInput,
    JobCancelled,
    task,
)
from taskforge.worker import Worker
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect
from tests.support.people import serving
from tests.support.real_node import SHARDS
from tests.support.reference import ROOT

PAGE = ROOT / "docs" / "guides" / "graphs.md"
PROGRAM = ROOT / "docs" / "examples" / "graphs.py"
KEY = api_key_text(bytes(range(32)))


@task(queue="a")
async def number(n: int) -> int:
    if n < 0:
        raise FatalError("negative")
    return n


@task(queue="b")
async def total(context: Context) -> dict[str, Any]:
    return await context.parent_results()


@task(queue="b")
def total_in_a_thread(context: Context) -> int:
    return sum(parent.result for parent in context.parents_blocking())


async def keyed(postgres_url: str) -> None:
    connection = await connect(postgres_url, application_name="test")
    try:
        await bootstrap(connection, SHARDS, KEY)
    finally:
        await connection.close()


@asynccontextmanager
async def working(postgres_url: str) -> AsyncIterator[tuple[str, AsyncClient]]:
    await keyed(postgres_url)
    async with serving(postgres_url) as site, AsyncClient(site.url, KEY) as client:
        for queue in ("a", "b"):
            await client.queues.create(queue)
        worker = Worker(site.url, KEY, [number, total, total_in_a_thread])
        serve = asyncio.create_task(worker.serve())
        yield site.url, client
        worker.stop()
        await serve


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_program_of_the_guide_runs(postgres_url: str) -> None:
    assert block("python") == PROGRAM.read_text(encoding="utf-8")
    await keyed(postgres_url)
    async with serving(postgres_url) as site:
        kept = {name: value for name, value in os.environ.items() if "TASKFORGE" not in name}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            env=kept | {"TASKFORGE_URL": site.url, "TASKFORGE_API_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert told.decode() == block("text")


async def test_results_of_parents_come_to_the_child(postgres_url: str) -> None:
    async with working(postgres_url) as (url, client):
        graph = Graph()
        nodes = [graph.add(number, ref=f"n{n}", n=n) for n in range(5)]
        summed = graph.add(total, after=nodes)
        threaded = graph.add(total_in_a_thread, after=nodes)
        jobs = await client.submit_graph(graph)
        assert await jobs[summed].wait(30) == {f"n{n}": n for n in range(5)}
        assert await jobs[threaded].wait(30) == 10
        later = await client.submit(total.configure(parents=[jobs["n3"], jobs["n4"]]))
        assert await later.wait(30) == {"n3": 3, "n4": 4}
        assert [parent.ref async for parent in client.parents(later.id)] == ["n3", "n4"]
        with pytest.raises(Conflict):
            await client.add_parents(later.id, [jobs["n0"]])

        def from_a_thread() -> Any:
            with Client(url, KEY) as blocking:
                handle = blocking.submit_graph(graph)
                shown = blocking.graph(handle[summed].id)
                assert (len(shown.nodes), len(shown.edges), shown.cut) == (7, 10, False)
                return handle[summed].wait(30)

        assert await asyncio.to_thread(from_a_thread) == {f"n{n}": n for n in range(5)}


async def test_what_becomes_of_children_when_a_parent_fails(postgres_url: str) -> None:
    async with working(postgres_url) as (_, client):
        graph = Graph()
        bad = graph.add(number, ref="bad", n=-1)
        falls = graph.add(total, after=[bad], on_failure="cancel")
        goes = graph.add(total, after=[(bad, "run_anyway")])
        graph.on_success(total, on_failure="cancel")
        graph.on_complete(total)
        jobs = await client.submit_graph(graph, idempotency_key="once")
        again = await client.submit_graph(graph, idempotency_key="once")
        assert [job.id for job in again.jobs] == [job.id for job in jobs.jobs]
        with pytest.raises(JobCancelled):
            await jobs[falls].wait(30)
        assert await jobs[goes].wait(30) == {}
        assert jobs.on_complete is not None
        assert await jobs.on_complete.wait(30) == {graph.nodes[2].ref: {}}
        assert jobs.on_success is not None
        with pytest.raises(JobCancelled):
            await jobs.on_success.wait(30)


async def test_a_graph_is_checked_before_anything_is_taken(postgres_url: str) -> None:
    async with working(postgres_url) as (_, client):
        graph = Graph()
        one = graph.add(number, ref="one", n=1)
        two = graph.add(number, ref="two", n=2, after=[one])
        one.parents.append({"ref": two.ref})
        with pytest.raises(InvalidInput, match=r"one -> two -> one|two -> one -> two"):
            await client.submit_graph(graph)
        with pytest.raises(ValueError, match="two nodes"):
            graph.add(number, ref="one", n=1)
        assert [job async for job in client.list()] == []
