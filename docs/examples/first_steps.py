import asyncio

from taskforge import AsyncClient, task
from taskforge.admin import AsyncAdminClient
from taskforge.worker import Worker


@task(queue="mail")
async def greet(name: str) -> str:
    return f"Hello {name}"


async def main() -> None:
    async with AsyncAdminClient() as ada:
        # An organisation, and you, its first admin.
        await ada.sign_up("Analytical Engines", "ada@example.com", "a long sentence of my own")

        # A project, and for each program a key that may do what it must, and nothing else.
        shop = await ada.projects.create("shop")
        web = await ada.api_keys.create(shop.id, "web server", ["jobs:write", "jobs:read"])
        machine = await ada.api_keys.create(shop.id, "worker", ["workers:connect"])

        # What a person does in a project: here, make a queue.
        async with await ada.client_for(shop.id) as client:
            await client.queues.create("mail")

        # A worker runs the tasks, and the web server submits a job. Here they are one program.
        worker = Worker(api_key=machine.key, tasks=[greet])
        working = asyncio.create_task(worker.serve())
        async with AsyncClient(api_key=web.key) as client:
            job = await client.submit(greet, name="Ada")
            print(await job.wait(timeout_s=30))
        worker.stop()
        await working

        # Whatever people did stands in the audit log, the newest first.
        async for entry in ada.audit.list():
            print(entry.sequence, entry.action)


if __name__ == "__main__":
    asyncio.run(main())
