"""Jobs that are told what to do: end, wait, hurry, hold."""

import asyncio

from taskforge import AsyncClient, Context, SoftTimeout, task
from taskforge.worker import Worker

begun = asyncio.Event()


@task(queue="reports")
async def watch(ctx: Context) -> None:
    begun.set()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("told to stop:", ctx.stop_reason)
        raise


@task(queue="reports", timeout_s=5, soft_timeout_s=0.2)
async def summary(ctx: Context, pages: int) -> str:
    done = 0
    try:
        while done < pages:
            await asyncio.sleep(0.01)
            done += 1
    except SoftTimeout:
        ctx.extend(60)  # a minute to save what there is
        return f"{done > 0}: the first pages of {pages}"
    return f"all {pages} pages"


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("reports")
        worker = Worker(tasks=[watch, summary])
        working = asyncio.create_task(worker.serve())

        # A job that runs is asked to end, and has ten seconds for it.
        job = await client.submit(watch)
        await begun.wait()
        await job.cancel(grace_s=10)
        ended = await client.wait(job.id, timeout_s=30)
        print(ended.status, ended.cancel_reason)

        # A soft time limit comes before the hard one.
        print(await (await client.submit(summary, pages=1_000_000)).wait(timeout_s=30))

        # A paused queue takes jobs in and starts none.
        await client.queues.pause("reports")
        late = await client.submit(summary.configure(ttl_s=0.1), pages=1)
        soon = await client.submit(summary, pages=2, delay_s=3600)
        many = [await client.submit(summary, pages=3, tags=["trial"]) for _ in range(3)]

        # Who is not started in time is cancelled; who waits can be told another time.
        print((await client.wait(late.id, timeout_s=30)).cancel_reason)
        print((await soon.run_now()).status, (await soon.change(priority=9)).priority)

        # Many end by a filter: first counted, then for good.
        print((await client.queues.cancel_jobs("reports", tags=["trial"], dry_run=True)).matched)
        print((await client.queues.cancel_jobs("reports", tags=["trial"])).cancelled)
        print({(await job.get()).status for job in many})

        await client.queues.resume("reports")
        print(await soon.wait(timeout_s=30))
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
