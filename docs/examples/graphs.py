import asyncio

from taskforge import AsyncClient, Context, Graph, task
from taskforge.worker import Worker


@task(queue="pages")
async def count_words(text: str) -> int:
    return len(text.split())


@task(queue="totals")
async def add_up(context: Context) -> int:
    # The results of the parents, by the names that they have in the graph.
    counts = await context.parent_results()
    return sum(counts.values())


@task(queue="totals")
async def tell(context: Context) -> str:
    ends = [f"{parent.ref} {parent.status}" for parent in await context.parents()]
    return ", ".join(sorted(ends))


async def main() -> None:
    async with AsyncClient() as client:
        for queue in ("pages", "totals"):
            await client.queues.put(queue)
        worker = Worker(tasks=[count_words, add_up, tell])
        working = asyncio.create_task(worker.serve())

        # Two jobs side by side, one behind both, and one when all have ended.
        graph = Graph()
        one = graph.add(count_words, ref="one", text="to be or not to be")
        two = graph.add(count_words, ref="two", text="that is the question")
        total = graph.add(add_up, ref="total", after=[one, two])
        graph.on_complete(tell)
        jobs = await client.submit_graph(graph)

        print(await jobs[total].wait(timeout_s=30))
        assert jobs.on_complete is not None
        print(await jobs.on_complete.wait(timeout_s=30))

        # One call shows what hangs together.
        shown = await client.graph(jobs[total].id)
        print(len(shown.nodes), "jobs,", len(shown.edges), "edges")

        # A job of its own may wait for jobs that are there already.
        again = await client.submit(add_up.configure(parents=[jobs[one], jobs[two]]))
        print(await again.wait(timeout_s=30))

        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
