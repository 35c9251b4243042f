"""A log line is one JSON object and carries the correlation id of its request."""

import io
import json
import logging
from collections.abc import Iterator

import asyncpg
import pytest

from taskforge_server.engine.observe import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_has_time_level_message_extras_and_the_request(stream: io.StringIO) -> None:
    token = logs.correlation_id.set("req-1")
    try:
        logging.getLogger("taskforge.test").info("took %d", 3, extra={"shard": 7})
    finally:
        logs.correlation_id.reset(token)
    logging.getLogger("taskforge.test").debug("not shown")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("at").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "taskforge.test",
        "message": "took 3",
        "correlation_id": "req-1",
        "shard": 7,
    }


def test_an_error_stays_on_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logging.getLogger("taskforge.test").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["error"]


def test_what_a_row_held_is_left_out(stream: io.StringIO) -> None:
    def refused() -> asyncpg.PostgresError:
        error = asyncpg.CheckViolationError("jobs refused a row")
        error.detail = "Failing row contains (canary)."
        return error

    log = logging.getLogger("taskforge.test")
    log.error("a row: %s", refused())
    try:
        try:
            raise refused()
        except asyncpg.PostgresError as error:
            raise ExceptionGroup("two", [ValueError("away"), refused()]) from error
    except ExceptionGroup:
        log.exception("it failed")
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count("jobs refused a row") == 3
