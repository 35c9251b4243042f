import asyncio
import os

import asyncpg

from taskforge import task
from taskforge.transactional import enqueue
from taskforge.worker import Worker

sent = asyncio.Event()


@task
async def send_receipt(order: int) -> None:
    print(f"receipt for order {order}")
    sent.set()


async def main() -> None:
    # The application's own connection, to the database that TaskForge uses.
    shop = await asyncpg.connect(os.environ["SHOP_DATABASE_URL"])
    await shop.execute("CREATE TEMPORARY TABLE orders (number integer)")

    async with shop.transaction():
        await shop.execute("INSERT INTO orders VALUES (1)")
        await enqueue(shop, send_receipt, order=1)

    try:
        async with shop.transaction():
            await shop.execute("INSERT INTO orders VALUES (2)")
            await enqueue(shop, send_receipt, order=2)
            raise RuntimeError("the card was refused")
    except RuntimeError as error:
        print(f"order 2: {error}")

    worker = Worker(tasks=[send_receipt])
    working = asyncio.create_task(worker.serve())
    async with asyncio.timeout(30):
        await sent.wait()
    worker.stop()
    await working
    await shop.close()


if __name__ == "__main__":
    asyncio.run(main())
