"""What the JSON check accepts, the jsonb of a real PostgreSQL accepts too."""

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.ext import jsontext
from tests.unit.ext.test_jsontext import ACCEPTED, REFUSED, damaged, documents, pieces, verdict

# Numbers at and around the bounds, with digits and exponents pulling in both directions.
numbers = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}".encode(),
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "9" * 500, "9" * 999, "9" * 1_000, "9" * 1_001]),
    st.sampled_from(["", ".0", "." + "0" * 499 + "1", "." + "0" * 998 + "1", "." + "9" * 999]),
    st.sampled_from(["", "e0", "E+400", "e-400", "e401", "e-401", "e00000000000000000000400"]),
)


class Jsonb:
    """A connection, driven from ordinary functions."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.connection: Any = self.runner.run(asyncpg.connect(url))

    def accepts(self, data: bytes) -> bool:
        """Whether the server takes these bytes for a jsonb, by the path that COPY takes too."""
        try:
            self.runner.run(self.connection.fetchval("SELECT pg_column_size($1::jsonb)", data))
        except (asyncpg.DataError, asyncpg.ProgramLimitExceededError):
            return False
        return True

    def close(self) -> None:
        self.runner.run(self.connection.close())
        self.runner.close()


@pytest.fixture(scope="module")
def jsonb(servers: EmbeddedServers) -> Iterator[Jsonb]:
    servers.postgres.execute("CREATE DATABASE jsontext")
    opened = Jsonb(servers.postgres.url("jsontext"))
    opened.runner.run(
        opened.connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            encoder=lambda data: b"\x01" + data,
            decoder=bytes,
            format="binary",
        )
    )
    yield opened
    opened.close()
    servers.postgres.execute("DROP DATABASE jsontext")


@pytest.mark.parametrize("data", ACCEPTED)
def test_takes_what_is_accepted(jsonb: Jsonb, data: bytes) -> None:
    assert jsonb.accepts(data)


def test_takes_no_more_than_numbers_and_depth_beyond_the_bounds(jsonb: Jsonb) -> None:
    stored = {reason for data, reason, _ in REFUSED if jsonb.accepts(data)}
    assert stored <= {"nested too deep", "number out of range"}


def test_takes_the_deepest(jsonb: Jsonb) -> None:
    depth = jsontext.DEPTH_LIMIT
    data = b'[{"a":' * (depth // 2) + b"1" + b"}]" * (depth // 2)
    jsontext.check(data, depth)
    assert jsonb.accepts(data)


@given(
    data=st.one_of(
        documents,
        damaged(),
        numbers,
        st.lists(pieces, max_size=12).map(b"".join),
        st.lists(pieces, max_size=6).map(lambda parts: b'"' + b"".join(parts) + b'"'),
    )
)
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_takes_whatever_is_accepted(jsonb: Jsonb, data: bytes) -> None:
    reason = verdict(jsontext, data, 64)
    stored = jsonb.accepts(data)
    assert reason is not None or stored
    # And the check is not stricter than it says.
    if reason is not None and stored:
        assert reason[0] in ("nested too deep", "number out of range")
