from taskforge import Client, Retry, task
from taskforge.testing import MemoryTaskForge


@task(max_attempts=3)
async def send_welcome(name: str) -> None:
    if name == "nobody":
        raise Retry("no such mailbox yet", delay_s=600)


def sign_up(client: Client, name: str) -> None:
    client.submit(send_welcome, name=name, delay_s=60)


def test_a_welcome_is_sent_after_a_minute() -> None:
    with MemoryTaskForge([send_welcome]) as forge:
        sign_up(forge.client, "Ada")
        job = forge.assert_submitted(send_welcome, name="Ada")
        assert forge.run() == 0
        forge.advance(60)
        assert forge.run() == 1
        assert forge.job(job.id).status == "succeeded"


def test_it_is_tried_three_times_in_twenty_minutes() -> None:
    with MemoryTaskForge([send_welcome]) as forge:
        started = forge.now
        sign_up(forge.client, "nobody")
        assert forge.run_all() == 3
        assert (forge.now - started).total_seconds() == 60 + 2 * 600
        assert forge.jobs[0].failed_reason == "attempts_exhausted"
