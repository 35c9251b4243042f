"""Passwords: hashed and compared by argon2id in a few threads, never in the loop.

    verify ──room?──► thread ──► right, wrong
               └── PASSWORDS_WAITING_MAX wait already: Overloaded

A hash takes tens of milliseconds of a core and PASSWORD_MEMORY_KIB of memory, and argon2 holds no
lock of the interpreter meanwhile; the number of threads bounds both. Where there is no account, a
made-up hash is compared, so that it takes as long to be told nothing.
"""

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Overloaded
from taskforge_server.engine.model.identity import normal_password

T = TypeVar("T")


def threads_for(cores: int | None) -> int:
    """Half of the cores, one at least: the loop and the database need the others."""
    return max(1, min(limits.PASSWORD_THREADS_MAX, (cores or 1) // 2))


class Passwords:
    """Makes and compares hashes."""

    def __init__(
        self,
        threads: int | None = None,
        *,
        memory_kib: int = limits.PASSWORD_MEMORY_KIB,
        waiting_max: int = limits.PASSWORDS_WAITING_MAX,
    ) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=limits.PASSWORD_PASSES,
            memory_cost=memory_kib,
            parallelism=limits.PASSWORD_LANES,
            type=argon2.Type.ID,
        )
        self.threads = threads or threads_for(os.cpu_count())
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="password")
        self._waiting_max = waiting_max
        self._dummy: str | None = None
        self.waiting = 0
        """Those that are being worked on included."""
        self.made = 0
        """Hashes since the start: each is the same amount of work."""

    async def hash(self, password: str) -> str:
        """What the tables hold of it; Overloaded."""
        return await self._in_thread(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password; False, after the same work, where there is no hash."""
        return await self._in_thread(lambda: self._verify(password_hash, password))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether it was made under other parameters than those of today."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """What waits is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self.waiting >= self._waiting_max:
            raise Overloaded(limits.OVERLOAD_RETRY_S, "too many logins at once")
        self.waiting += 1
        self.made += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.waiting -= 1

    def _verify(self, password_hash: str | None, password: str) -> bool:
        if self._dummy is None:
            self._dummy = self._hasher.hash(secrets.token_bytes(16))
        try:
            self._hasher.verify(password_hash or self._dummy, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None


def _bytes(password: str) -> bytes:
    return normal_password(password).encode()
