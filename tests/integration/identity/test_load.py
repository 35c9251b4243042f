"""Many logins at one time: they wait for each other, nobody else waits for them."""

import asyncio
import threading
import time

import pytest

from taskforge_server.api.auth.passwords import Passwords, threads_for
from taskforge_server.engine import limits
from taskforge_server.engine.errors import Overloaded
from taskforge_server.engine.model.audit import Actor
from tests.support.people import PASSWORD, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOGINS = 100
LAG_S_MAX = 0.05
MEASUREMENTS_MAX = 3
"""A machine that is busy with something else for once says nothing of the loop."""

PEOPLE = """
    INSERT INTO users (organization_id, email, password_hash, role)
    SELECT organization_id, 'load' || number || '@example.com', password_hash, 'member'
    FROM users, generate_series(1, $2) AS number
    WHERE users.email = $1
"""


class Lag:
    """What kept the loop. Its own work is measured in CPU time of its thread, for the machine may
    be busy with something else; who holds the interpreter makes it late nearly all the time."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """Of what the loop did itself between two steps."""
        self.late_s = self.all_s = 0.0

    async def measure(self) -> None:
        loop, step_s = asyncio.get_running_loop(), 0.002
        while True:
            due_s, worked_s = loop.time() + step_s, time.thread_time()
            await asyncio.sleep(step_s)
            self.longest_s = max(self.longest_s, time.thread_time() - worked_s)
            late_s = loop.time() - due_s
            self.late_s += late_s if late_s >= LAG_S_MAX else 0.0
            self.all_s += step_s + late_s


async def lag_of_logins(site: Site) -> float:
    """How long the loop is kept while a hundred people log in at one time."""
    assert site.api.identity is not None
    log_in, actor, lag = site.api.identity.log_in, Actor("nobody", address="10.0.0.1"), Lag()
    measuring = asyncio.create_task(lag.measure())
    emails = [f"load{number}@example.com" for number in range(1, LOGINS + 1)]
    sessions = await asyncio.gather(*(log_in(email, PASSWORD, actor) for email in emails))
    measuring.cancel()
    assert lag.late_s < lag.all_s / 2
    assert len({tokens.refresh_token for _, tokens in sessions}) == LOGINS
    return lag.longest_s


async def test_a_hundred_logins_do_not_keep_the_loop(site: Site) -> None:
    ada = await site.sign_up()
    await site.node.pool.execute(PEOPLE, ada.email, LOGINS)
    lags: list[float] = []
    while not lags or (lags[-1] >= LAG_S_MAX and len(lags) < MEASUREMENTS_MAX):
        lags.append(await lag_of_logins(site))
    assert min(lags) < LAG_S_MAX, lags


async def test_hashes_are_made_in_a_few_threads_beside_the_loop() -> None:
    passwords, at_once, most, threads = Passwords(2, memory_kib=64), 0, 0, set()
    real, lock = passwords._verify, threading.Lock()
    both = threading.Barrier(2, timeout=20)

    def watched(password_hash: str | None, password: str) -> bool:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            threads.add(threading.get_ident())
        both.wait()  # two come together, or nobody goes on
        right = real(password_hash, password)
        with lock:
            at_once -= 1
        return right

    passwords._verify = watched  # type: ignore[method-assign]
    stored = await passwords.hash(PASSWORD)
    answers = await asyncio.gather(*(passwords.verify(stored, PASSWORD) for _ in range(20)))
    assert answers == [True] * 20
    assert (most, len(threads)) == (2, 2)
    assert threading.get_ident() not in threads
    passwords.close()


async def test_logins_that_wait_are_bounded() -> None:
    passwords = Passwords(1, memory_kib=64, waiting_max=3)
    results = await asyncio.gather(
        *(passwords.verify(None, PASSWORD) for _ in range(5)), return_exceptions=True
    )
    assert results[:3] == [False] * 3
    assert all(isinstance(error, Overloaded) for error in results[3:])
    assert passwords.waiting == 0
    passwords.close()


@pytest.mark.parametrize(("cores", "threads"), [(None, 1), (1, 1), (2, 1), (4, 2), (64, 4)])
async def test_threads_leave_cores_to_the_loop(cores: int | None, threads: int) -> None:
    assert threads_for(cores) == threads <= limits.PASSWORD_THREADS_MAX
