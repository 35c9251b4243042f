"""Jobs that have failed for good: told of, found, put back, purged. Wants TASKFORGE_URL and
TASKFORGE_API_KEY."""

import asyncio

from taskforge import (
    AsyncClient,
    DeadLetterHook,
    DeadLetterSettings,
    Fail,
    JobFailed,
    QueueSettings,
    task,
)
from taskforge.worker import Worker

SHOP = {"open": False}


@task(queue="orders")
async def order(number: int) -> None:
    if not SHOP["open"]:
        raise Fail("closed")


told: asyncio.Queue[str] = asyncio.Queue()


@task(queue="alarms")
async def alarm(
    job_id: str, queue: str, reason: str, error: dict[str, object], **_: object
) -> None:
    """Gets each dead letter once."""
    await told.put(f"{queue}: {reason}, {error['message']}")


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("alarms")
        settings = DeadLetterSettings(
            keep_s=30 * 86_400, hook=DeadLetterHook(queue="alarms", job_type="alarm")
        )
        await client.queues.put("orders", settings=QueueSettings(dead_letters=settings))
        worker = Worker(tasks=[order, alarm])
        serving = asyncio.create_task(worker.serve())
        for number in range(3):
            handle = await client.submit(order, number=number)
            try:
                await handle.wait(20)
            except JobFailed:
                print(f"told: {await asyncio.wait_for(told.get(), 20)}")

        async for job in client.dead_letters.list("orders", reasons=["not_retryable"]):
            print(f"dead: order {job.payload['number']} after {job.attempts}")

        SHOP["open"] = True
        plan = await client.dead_letters.requeue("orders", dry_run=True)
        print(f"would run again: {plan.count}")
        again = await client.dead_letters.requeue("orders", limit=2, per_s=100)
        for job_id in again.job_ids:
            print((await client.wait(job_id, 20)).status)

        gone = await client.dead_letters.purge("orders", cursor=again.next_cursor)
        print(f"purged: {gone.count}")
        worker.stop()
        await serving


if __name__ == "__main__":
    asyncio.run(main())
