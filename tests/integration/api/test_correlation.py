"""Correlation ids: in with the request, out with the answer, in every log line between."""

import json
import logging
import re

import aiohttp
import pytest

from taskforge_server.api.rest.correlation import HEADER
from taskforge_server.engine import limits
from taskforge_server.engine.observe.logs import JsonFormatter
from tests.integration.api.conftest import KEY, Fixture

JOBS = "/v1/queues/default/jobs"
GIVEN = "trace-1/span:2"


async def test_every_answer_has_an_id(api: Fixture) -> None:
    answers = [
        await api.get("/healthz", key=None),
        await api.get("/nothing"),
        await api.get("/v1/queues", key=None),
        *[await api.post(JOBS, {"job_type": "t"}) for _ in range(3)],
    ]
    ids = [answer.headers[HEADER] for answer in answers]
    assert len(set(ids)) == len(ids)
    given = {HEADER: GIVEN}
    assert (await api.get("/nothing", headers=given)).headers[HEADER] == GIVEN
    assert (await api.get("/v1/queues", headers=given)).headers[HEADER] == GIVEN


async def test_ids_on_the_short_way(api: Fixture) -> None:
    direct = api.server._door.submits
    for number in range(4):
        answer = await api.post(JOBS, {"job_type": "t"}, headers={HEADER: f"request-{number}"})
        assert (answer.status, answer.headers[HEADER]) == (201, f"request-{number}")
    assert len(direct._heads) == 1, "the id is no part of the head"
    refused = await api.post(JOBS, {"job_typo": 1}, headers={HEADER: "request-5"})
    assert (refused.status, refused.headers[HEADER]) == (422, "request-5")


@pytest.mark.parametrize(
    "bad", ["two words", "a" * (limits.CORRELATION_ID_CHARS_MAX + 1), "\xe4", '"', ""]
)
async def test_an_unfit_id_is_replaced(api: Fixture, bad: str) -> None:
    for _ in range(2):
        answer = await api.post(JOBS, {"job_type": "t"}, headers={HEADER: bad})
        assert answer.status == 201
        assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", answer.headers[HEADER])


async def test_log_lines_carry_the_id(api: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    lines = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    keep = Keep()
    logging.getLogger().addHandler(keep)
    try:

        def fail() -> None:
            raise ConnectionError("the database is away")

        api.keys.before_read = fail
        assert (await api.get("/v1/queues", headers={HEADER: GIVEN})).status == 500
    finally:
        logging.getLogger().removeHandler(keep)
    failed = [line for line in lines if line["level"] == "error"]
    assert [line["correlation_id"] for line in failed] == [GIVEN]


async def test_a_worker_stream_answers_with_its_id(api: Fixture) -> None:
    async with api.session.ws_connect(
        api.url + "/v1/workers/stream",
        headers={"Authorization": f"Bearer {KEY}", HEADER: GIVEN},
    ) as socket:
        assert isinstance(socket, aiohttp.ClientWebSocketResponse)
        assert socket._response.headers[HEADER] == GIVEN
