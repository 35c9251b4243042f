"""Progress, live events, and waiting for many jobs."""

import asyncio
from contextlib import aclosing

from taskforge import AsyncClient, Context, task
from taskforge.worker import Worker

watched = asyncio.Event()


@task(queue="films")
async def encode(ctx: Context, film: str) -> str:
    await watched.wait()
    ctx.progress(50, "second half")
    return f"{film}.mp4"


@task(queue="films")
async def thumbnail(film: str) -> str:
    return f"{film}.png"


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("films")
        worker = Worker(tasks=[encode, thumbnail])
        working = asyncio.create_task(worker.serve())

        # What happens to one job, from what it is now to its end.
        job = await client.submit(encode, film="metropolis")
        async with aclosing(job.events()) as events:
            async for event in events:
                if event.event == "state":
                    watched.set()
                elif event.progress is not None:
                    print(event.progress.percent, event.progress.message)
                elif event.final:
                    print(event.event)

        # All of several jobs, in their order; or whichever has ended first.
        jobs = [await client.submit(thumbnail, film=film) for film in ("m", "nosferatu")]
        print([end.value() for end in await client.wait_all(jobs, timeout_s=30)])
        late = await client.submit(thumbnail, film="stalker", delay_s=3600)
        (first,) = await client.wait_any([late, jobs[0]], timeout_s=30)
        print(first.status, first.result)

        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())
