"""What a failure of the driver means."""

import asyncpg
import pytest

from taskforge_server.engine.journal.link import is_data_error, is_environmental, is_statement_error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.AdminShutdownError("terminated"),
        asyncpg.CannotConnectNowError("starting"),
        asyncpg.ConnectionDoesNotExistError("closed in the middle"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation is in progress"),
    ],
)
def test_a_database_that_is_away(error: Exception) -> None:
    assert is_environmental(error)


def test_faults_of_our_own() -> None:
    assert is_data_error(asyncpg.UniqueViolationError("twice"))
    assert is_statement_error(asyncpg.UndefinedTableError("no such table"))
    assert not is_environmental(asyncpg.UndefinedTableError("no such table"))
    assert not is_environmental(KeyError("a bug"))
