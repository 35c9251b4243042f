"""Ask why a job is not running."""

import asyncio

from taskforge import AsyncClient, task
from taskforge.worker import Worker


@task(queue="letters", max_attempts=2)
async def post(to: str) -> str:
    if to == "nobody":
        raise ValueError("no such address")
    return f"posted to {to}"


@task(queue="letters")
async def stamp() -> None:
    """No worker of this program runs it."""


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("letters")
        first = await client.submit(post, to="ada")
        second = await client.submit(post, to="alan")
        for reason in (await second.why()).reasons:
            print(f"{reason.code}: {reason.message}")

        later = await client.submit(post, to="grace", delay_s=3600)
        print((await later.why()).codes[0])

        worker = Worker(tasks=[post])
        working = asyncio.create_task(worker.serve())
        print(await second.wait(timeout_s=30))
        print((await first.why()).codes)

        orphan = await client.submit(stamp)
        why = await orphan.why()
        print(why.codes, why.reasons[0].details["connected_types"])

        await client.queues.pause("letters")
        print((await orphan.why()).codes[0])
        await client.queues.cancel_jobs("letters")  # as it was, for the next run
        await client.queues.resume("letters")
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
