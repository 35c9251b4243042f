"""Logs of jobs: pages, and streams that go on until the job ends, the reader or the server goes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.model.execution import LogLevel, LogLine, log_id
from taskforge_server.ext.ids import execution_id, uuid_bytes, uuid_text
from tests.integration.api.conftest import KEY, OTHER_KEY, PROJECT, Fixture, until
from tests.support.stub_engine import NOW_US

JOBS = "/v1/queues/default/jobs"
NOBODY = "01997b5c-6c00-7001-8000-5f3a9c2d4e6f"


async def submitted(api: Fixture) -> str:
    answer = await api.post(JOBS, {"job_type": "send"})
    return str(answer.json["id"])


def started(api: Fixture) -> bytes:
    """Start the job that waits; the id of its execution."""
    table = api.engine.table
    _, count = table.start(0, None, table.worker(b"w" * 16), 10, NOW_US)
    assert count == 1
    job = table.snapshot()[-1]
    return execution_id(job["id"], job["attempt"], job["started_us"])


def ended(api: Fixture, job_id: str) -> None:
    """The job that runs succeeds."""
    job = api.engine.table.get(uuid_bytes(job_id))
    assert job is not None
    token = job["id"] + job["lease_lsn"].to_bytes(8)
    assert api.engine.table.succeed_with(token, None, NOW_US + 1000)
    if (enders := api.engine._enders.get(job["id"])) is not None:
        enders.set()


def line(job_id: str, execution: bytes, number: int, level: LogLevel = "info") -> LogLine:
    return LogLine(
        execution_id=execution,
        number=number,
        job_id=uuid_bytes(job_id),
        project_id=PROJECT,
        level=level,
        message=f"line {number}",
        metadata=b'{"n": %d}' % number,
        logged_us=NOW_US,
    )


class Follower:
    """Reads server-sent events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        """The fields of the next event or comment; none at the end."""
        fields: dict[str, str] = {}
        async for raw in self.response.content:
            text = raw.decode().rstrip("\n")
            if not text:
                return fields
            name, _, value = text.partition(":")
            fields[name] = fields.get(name, "") + value.lstrip()
        return fields

    async def event(self) -> tuple[str, Any] | None:
        """Kind and data of the next event; None at the end."""
        while fields := await self.block():
            if "data" in fields:
                return fields.get("event", ""), json.loads(fields["data"])
        return None


@asynccontextmanager
async def following(
    api: Fixture, job_id: str, query: str = "", key: str = KEY, **headers: str
) -> AsyncIterator[Follower]:
    url = f"{api.url}/v1/jobs/{job_id}/logs/stream{query}"
    sent = {"Authorization": f"Bearer {key}", **headers}
    async with api.session.get(url, headers=sent) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Request-Id"]
        yield Follower(response)


async def test_pages_of_lines(api: Fixture) -> None:
    job_id = await submitted(api)
    assert (await api.get(f"/v1/jobs/{job_id}/logs")).json == {"items": [], "next_cursor": None}
    execution = started(api)
    for number, level in enumerate(("info", "warn", "error"), 1):
        api.logs.add(line(job_id, execution, number, level))  # type: ignore[arg-type]
    answer = await api.get(f"/v1/jobs/{job_id}/logs?limit=2")
    first = answer.json["items"][0]
    assert first == {
        "id": uuid_text(log_id(execution, 1)),
        "execution_id": uuid_text(execution),
        "attempt": 1,
        "number": 1,
        "level": "info",
        "message": "line 1",
        "metadata": {"n": 1},
        "logged_at": first["logged_at"],
    }
    rest = await api.get(f"/v1/jobs/{job_id}/logs?limit=2&cursor={answer.json['next_cursor']}")
    assert [item["number"] for item in rest.json["items"]] == [3]
    assert rest.json["next_cursor"] is None
    warned = await api.get(f"/v1/jobs/{job_id}/logs?level=warn&attempt=1")
    assert [item["number"] for item in warned.json["items"]] == [2]
    assert (await api.get(f"/v1/jobs/{job_id}/logs?attempt=2")).json["items"] == []


@pytest.mark.parametrize("path", ["logs", "logs/stream"])
async def test_another_project_and_bad_parameters(api: Fixture, path: str) -> None:
    job_id = await submitted(api)
    for job, key in ((job_id, OTHER_KEY), (NOBODY, KEY), ("nonsense", KEY)):
        answer = await api.get(f"/v1/jobs/{job}/{path}", key=key)
        assert (answer.status, answer.json["code"]) == (404, "job_not_found")
    assert (await api.get(f"/v1/jobs/{job_id}/{path}", key=None)).status == 401
    assert (await api.get(f"/v1/jobs/{job_id}/{path}?level=debug")).json["field"] == "level"
    assert (await api.get(f"/v1/jobs/{job_id}/{path}?attempt=0")).json["field"] == "attempt"
    assert api.logs.followers == {}


async def test_a_place_that_makes_no_sense(api: Fixture) -> None:
    path = f"/v1/jobs/{await submitted(api)}/logs/stream"
    bad = await api.get(f"{path}?after={'x' * 36}")
    assert (bad.status, bad.json["field"]) == (422, "after")
    bad = await api.get(path, headers={"Last-Event-ID": "7"})
    assert (bad.status, bad.json["field"]) == (422, "Last-Event-ID")


async def test_a_follower_sees_old_lines_new_ones_and_the_end(api: Fixture) -> None:
    job_id = await submitted(api)
    execution = started(api)
    api.logs.add(line(job_id, execution, 1))
    async with following(api, job_id) as follower:
        assert (await follower.block())["retry"] == str(limits.EVENT_RETRY_MS)
        kind, data = await follower.event() or ("", None)
        assert (kind, data["message"], data["metadata"]) == ("", "line 1", {"n": 1})
        for number in (2, 3):
            api.logs.add(line(job_id, execution, number))
            _, data = await follower.event() or ("", None)
            assert data["number"] == number
        api.logs.lines.append(line(job_id, execution, 4))  # no news of it comes
        ended(api, job_id)
        _, data = await follower.event() or ("", None)
        assert data["number"] == 4
        assert await follower.event() == ("end", {"status": "succeeded"})
        assert await follower.event() is None
    assert api.logs.flushes == 1
    assert api.logs.followers[uuid_bytes(job_id)] == set()


async def test_a_follower_goes_on_where_it_was(api: Fixture) -> None:
    job_id = await submitted(api)
    execution = started(api)
    for number in range(1, 6):
        api.logs.add(line(job_id, execution, number))
    ended(api, job_id)
    place = uuid_text(log_id(execution, 3))
    for query, headers in ((f"?after={place}", {}), ("", {"Last-Event-ID": place})):
        async with following(api, job_id, query, **headers) as follower:
            _, data = await follower.event() or ("", None)
            assert data["number"] == 4
            assert data["id"] == uuid_text(log_id(execution, 4))


async def test_many_lines_are_read_page_by_page(api: Fixture) -> None:
    job_id = await submitted(api)
    execution = started(api)
    count = 3 * limits.PAGE_ROWS_DEFAULT + 1
    for number in range(1, count + 1):
        api.logs.add(line(job_id, execution, number))
    ended(api, job_id)
    async with following(api, job_id) as follower:
        seen = []
        while (event := await follower.event()) is not None:
            seen.append(event[1].get("number"))
    assert seen == [*range(1, count + 1), None]


async def test_a_stream_says_that_it_lives(api: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENT_HEARTBEAT_S", 0.01)
    async with following(api, await submitted(api)) as follower:
        await follower.block()
        assert await follower.block() == {"": ""}


async def test_streams_are_bounded_and_free_their_place(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENT_STREAMS_MAX", 1)
    job_id = await submitted(api)
    events = api.server._door._api.events
    async with following(api, job_id) as follower:
        await follower.block()
        refused = await api.get(f"/v1/jobs/{job_id}/logs/stream")
        assert (refused.status, refused.json["code"]) == (429, "overloaded")
        assert "Retry-After" in refused.headers
        follower.response.close()
    await until(lambda: events.count == 0)
    assert api.logs.followers[uuid_bytes(job_id)] == set()
    async with following(api, job_id) as follower:
        await follower.block()


async def test_no_organisation_takes_all_streams(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENT_STREAMS_ORGANIZATION_MAX", 1)
    job_id = await submitted(api)
    async with following(api, job_id) as follower:
        await follower.block()
        assert (await api.get(f"/v1/jobs/{job_id}/logs/stream")).status == 429
    await until(lambda: api.server._door._api.events.count == 0)
    assert api.server._door._api.events._count_of == {}


async def test_many_followers_read_a_few_at_a_time(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submitted(api)
    execution = started(api)
    api.logs.add(line(job_id, execution, 1))
    ended(api, job_id)
    page, reading, most = api.logs.page, 0, 0

    async def counted(*arguments: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0)
        reading -= 1
        return await page(*arguments)

    async def read() -> list[str]:
        async with following(api, job_id) as follower:
            return [kind async for kind in _kinds(follower)]

    monkeypatch.setattr(api.logs, "page", counted)
    assert await asyncio.gather(*(read() for _ in range(30))) == [["", "end"]] * 30
    assert 1 < most <= limits.LOG_FOLLOW_READS_MAX


async def _kinds(follower: Follower) -> AsyncIterator[str]:
    while (event := await follower.event()) is not None:
        yield event[0]


async def test_streams_end_when_the_server_stops(api: Fixture) -> None:
    async with following(api, await submitted(api)) as follower:
        await follower.block()
        stopping = asyncio.create_task(api.server.stop(20.0))
        assert await follower.event() is None  # a clean end, not a broken connection
        async with asyncio.timeout(10):
            await stopping


async def test_a_key_that_is_revoked_sees_nothing_more(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRINCIPAL_TTL_S", 0.0)
    job_id = await submitted(api)
    execution = started(api)
    async with following(api, job_id) as follower:
        await follower.block()
        api.logs.add(line(job_id, execution, 1))
        assert await follower.event() is not None
        api.keys.rows.clear()
        api.server.authenticator.forget()
        api.logs.add(line(job_id, execution, 2))
        assert await follower.event() is None


async def test_a_follower_outlives_a_database_that_is_away(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_RETRY_S", 0.01)
    job_id = await submitted(api)
    execution = started(api)
    page, tries = api.logs.page, 0

    async def away(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise Unavailable()
        return await page(*arguments)

    monkeypatch.setattr(api.logs, "page", away)
    api.logs.add(line(job_id, execution, 1))
    async with following(api, job_id) as follower:
        _, data = await follower.event() or ("", None)
        assert data["number"] == 1
    assert tries >= 4


async def test_a_job_that_is_gone_ends_the_stream(
    api: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submitted(api)
    async with following(api, job_id) as follower:
        await follower.block()
        monkeypatch.setattr(api.engine, "job", _nothing)
        for news in api.logs.followers[uuid_bytes(job_id)]:
            news.set()
        assert await follower.event() == ("end", {"status": "gone"})


async def _nothing(job_id: bytes) -> None:
    return None
