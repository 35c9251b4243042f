"""Jobs at the ticks of cron expressions."""

import asyncio
from datetime import UTC, datetime

from taskforge import AsyncClient, task
from taskforge.worker import Worker

reported = asyncio.Event()


@task(queue="digests")
async def report(kind: str) -> str:
    reported.set()
    return f"{kind} report"


# A worker with this task makes the schedule when it starts.
@task(queue="digests", cron="0 3 * * *", timezone="Europe/Berlin")
async def tidy_up() -> None:
    pass


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("digests")
        worker = Worker(tasks=[report])
        working = asyncio.create_task(worker.serve())

        # Every night at half past two, and one at a time.
        nightly = await client.schedules.create(
            "nightly",
            "30 2 * * *",
            report.job(kind="daily"),
            timezone="Europe/Berlin",
            overlap="skip",
        )
        print(nightly.queue, nightly.cron, nightly.overlap, nightly.catch_up)

        # On 29 March 2026 clocks in Berlin go from two to three: the job runs at three.
        for tick in await client.schedules.preview_cron(
            "30 2 * * *",
            timezone="Europe/Berlin",
            count=3,
            after=datetime(2026, 3, 27, 12, tzinfo=UTC),
        ):
            print(tick.isoformat())

        # Once more, beside its ticks.
        job = await client.schedules.run_now("nightly")
        print((await client.wait(job.id, timeout_s=30)).result)

        # Seconds may stand in front.
        reported.clear()
        await client.schedules.create("often", "* * * * * *", report.job(kind="short"))
        await reported.wait()
        paused = await client.schedules.pause("often")
        print(paused.paused, paused.next_at)
        await client.schedules.resume("often")
        await client.schedules.update("often", cron="@hourly")

        # What a worker with the task would do.
        (declared,) = await client.schedules.declare(tidy_up)
        print(declared.name, declared.cron, declared.timezone)
        print([schedule.name async for schedule in client.schedules.list(queue="digests")])

        for name in ("nightly", "often", "tidy_up"):
            await client.schedules.delete(name)
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
