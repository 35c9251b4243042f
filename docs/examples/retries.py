"""What queues, jobs and handlers say about failures. Wants TASKFORGE_URL and TASKFORGE_API_KEY."""

import asyncio

from taskforge import (
    AsyncClient,
    Cancel,
    Context,
    Fail,
    JobCancelled,
    JobFailed,
    QueueSettings,
    Retry,
    RetryBudget,
    RetryPolicy,
    Snooze,
    task,
)
from taskforge.worker import Worker


@task(queue="calls")
async def call(ctx: Context, number: str) -> str:
    if number == "unknown":
        raise Fail("there is no such number")
    if number == "withdrawn":
        raise Cancel("the caller hung up")
    if number == "broken":
        raise ConnectionError("no line")
    if number == "busy" and ctx.attempt == 1:
        raise Retry("busy", delay_s=0.05)
    if number == "asleep" and ctx.attempt <= 3:
        raise Snooze(0.01)
    return f"reached {number} in attempt {ctx.attempt}"


SETTINGS = QueueSettings(
    retry_policy=RetryPolicy(
        max_attempts=2, backoff="list", delays_s=[0.01, 0.1], non_retryable=["ConnectionError"]
    ),
    retry_budget=RetryBudget(ratio=0.1, per_s=50.0),
)


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("calls", settings=SETTINGS)
        worker = Worker(tasks=[call])
        serving = asyncio.create_task(worker.serve())
        patient = call.configure(retry_policy=RetryPolicy(max_attempts=3, non_retryable=[]))
        for kind, number in [
            (call, "busy"),
            (call, "asleep"),
            (call, "unknown"),
            (call, "withdrawn"),
            (call, "broken"),
            (patient, "broken"),
        ]:
            handle = await client.submit(kind, number=number)
            try:
                print(await handle.wait(20))
            except JobFailed as failure:
                job = await handle.get()
                print(f"{number}: {failure.reason} after {job.attempts}")
            except JobCancelled:
                job = await handle.get()
                print(f"{number}: cancelled, {job.last_error['message']}")
        worker.stop()
        await serving


if __name__ == "__main__":
    asyncio.run(main())
