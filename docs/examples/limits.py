import asyncio
from collections import Counter

from taskforge import AsyncClient, QueueSettings, Rate, task
from taskforge.worker import Worker

running: Counter[str] = Counter()
most: Counter[str] = Counter()


@task(queue="crm")
async def sync(customer: str, page: int) -> None:
    running.update([customer, "all"])
    most[customer] = max(most[customer], running[customer])
    most["all"] = max(most["all"], running["all"])
    await asyncio.sleep(0.01)
    running.subtract([customer, "all"])


async def main() -> None:
    async with AsyncClient() as client:
        # Two at once in all, one of each customer, 200 starts a second, and customers take turns.
        settings = QueueSettings(
            max_concurrency=2,
            max_concurrency_per_key=1,
            rate=Rate(per_s=200, burst=5),
            fair_keys=True,
        )
        await client.queues.put("crm", settings=settings)
        worker = Worker(tasks=[sync])
        working = asyncio.create_task(worker.serve())
        jobs = [
            await client.submit(sync.configure(group_key=customer), customer=customer, page=page)
            for customer in ("ada", "bob", "eve")
            for page in range(5)
        ]
        for job in jobs:
            await job.wait(timeout_s=30)
        worker.stop()
        await working
    for name, count in sorted(most.items()):
        print(f"{name}: at most {count} at once")


if __name__ == "__main__":
    asyncio.run(main())
