from taskforge import Client, task


@task
async def greet(name: str) -> str:
    return f"Hello {name}"


if __name__ == "__main__":
    with Client() as client:
        print(client.submit(greet, name="Ada").wait())
