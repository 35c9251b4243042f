"""A queue that matters goes first, and another one of the project does not starve."""

import asyncio

from taskforge import AsyncClient, JobSpec, task
from taskforge.worker import Worker

started: list[str] = []
URGENT = 300


@task(queue="urgent")
async def page(n: int) -> None:
    started.append("urgent")
    await asyncio.sleep(0.01)


@task(queue="bulk")
async def report() -> None:
    started.append("bulk")


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("urgent", priority=9)
        await client.queues.put("bulk", priority=0)
        bulk = await client.submit(report)
        await client.submit_many([JobSpec(page, {"n": n}) for n in range(URGENT)])

        # One job at a time, so that the order can be seen.
        worker = Worker(tasks=[page, report], concurrency=1)
        working = asyncio.create_task(worker.serve())
        await bulk.wait(timeout_s=30)
        print("the first job is", started[0])
        print("bulk was served before urgent was empty:", started.count("urgent") < URGENT)
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
