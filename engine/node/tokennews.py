"""Access tokens that were taken back, told from node to node, and remembered while they could live.

    taken back here ──tell──► this node at once, the others by a message that says what
                         └──► the row, which every node reads at a short interval

A message may be lost, a row is not: without Redis the others know within REVOCATIONS_READ_S,
without the database by the message. A node that could not read for REVOCATIONS_STALE_S believes no
token.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.port import TOKENS_REVOKED, Cluster
from taskforge_server.engine.errors import TaskForgeError
from taskforge_server.engine.model.identity import Revocation

log = logging.getLogger(__name__)

_MESSAGE = struct.Struct(">16sI")


class Reader(Protocol):
    """The rows of what was taken back."""

    async def since(self, seconds: float) -> list[Revocation]: ...


class TokenNews:
    """What this node knows of tokens that are refused before they expire."""

    def __init__(
        self, cluster: Cluster, rows: Reader, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._rows = rows
        self._monotonic_s = monotonic_s
        self._versions: dict[bytes, int] = {}
        self._ends_s: dict[bytes, float] = {}
        """When each may be forgotten, the soonest first."""
        self._read_s = float("-inf")
        self._wake = asyncio.Event()
        cluster.subscribe(TOKENS_REVOKED, self._heard, self._wake.set)

    def refuses(self, subject: bytes, version: int) -> bool:
        """Whether tokens of this session or user with this version were taken back."""
        return self._versions.get(subject, 0) > version

    def is_fresh(self) -> bool:
        """Whether it is known what was taken back."""
        return self._monotonic_s() - self._read_s < limits.REVOCATIONS_STALE_S

    def tell(self, revocations: Iterable[Revocation]) -> None:
        """These were taken back here; other nodes are told."""
        for revocation in revocations:
            self._learn(revocation)
            message = _MESSAGE.pack(revocation.subject, revocation.version)
            self._cluster.publish(TOKENS_REVOKED, message)

    def _heard(self, message: bytes) -> None:
        if len(message) == _MESSAGE.size:
            self._learn(Revocation(*_MESSAGE.unpack(message)))

    def _learn(self, revocation: Revocation) -> None:
        subject, version = revocation.subject, revocation.version
        known = self._versions.get(subject, 0)
        if version <= known:
            return
        self._versions[subject] = version
        # At the end of the order again, since this one ends last.
        self._ends_s.pop(subject, None)
        self._ends_s[subject] = self._monotonic_s() + limits.REVOCATIONS_KEPT_S

    def _forget(self) -> None:
        now_s = self._monotonic_s()
        beyond = len(self._ends_s) - limits.REVOCATIONS_MAX
        over = []
        for place, (subject, end_s) in enumerate(self._ends_s.items()):
            if end_s > now_s and place >= beyond:
                break
            over.append(subject)
        for subject in over:
            del self._ends_s[subject], self._versions[subject]

    async def run(self) -> None:
        """Read when there may be news that was lost, and at a short interval."""
        while True:
            try:
                async with asyncio.timeout(limits.REVOCATIONS_READ_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to look
            await asyncio.sleep(limits.REVOCATIONS_READ_PAUSE_S)
            self._wake.clear()
            try:
                await self.read()
            except TaskForgeError as error:
                log.warning("revoked tokens not read: %s", error)

    async def read(self) -> None:
        """All that may matter the first time and after a pause; else what is new."""
        started_s = self._monotonic_s()
        paused_s = started_s - self._read_s
        back_s = limits.REVOCATIONS_OVERLAP_S + min(paused_s, limits.REVOCATIONS_KEPT_S)
        for revocation in await self._rows.since(back_s):
            self._learn(revocation)
        self._read_s = started_s
        self._forget()
