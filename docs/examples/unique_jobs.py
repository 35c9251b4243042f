"""Jobs of which there is to be one at a time."""

import asyncio

from taskforge import AsyncClient, Conflict, task


@task(queue="accounts")
async def invoice(month: str) -> None: ...


@task(queue="accounts")
async def reindex(version: int) -> None: ...


async def main() -> None:
    async with AsyncClient() as client:
        await client.queues.put("accounts")

        # One invoice a month at a time: the second submit gives the first job.
        november = invoice.configure(unique_key="invoice-11")
        first = await client.submit(november, month="november")
        again = await client.submit(november, month="november")
        print(again.id == first.id, again.unique)

        # Or it is an error.
        strict = invoice.configure(unique_key="invoice-11", unique={"on_conflict": "reject"})
        try:
            await client.submit(strict, month="november")
        except Conflict as error:
            print(error.code, error.job_id == first.id)

        # At most one an hour, whatever becomes of it.
        hourly = invoice.configure(
            unique_key="reminder", unique={"scope": "period", "period_s": 3600}
        )
        reminder = await client.submit(hourly, month="october")
        await reminder.cancel()
        print((await client.submit(hourly, month="october")).unique)

        # Ten seconds after the last change, with what it said.
        calm = reindex.configure(
            unique_key="index", unique={"on_conflict": "debounce", "debounce_s": 10}
        )
        job = await client.submit(calm, version=1)
        print((await client.submit(calm, version=2)).unique, (await job.get()).payload)


if __name__ == "__main__":
    asyncio.run(main())
