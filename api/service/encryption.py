"""Encryption at rest: the switch of a project, its keys, and sealed texts opened for readers.

What the engine and the tables give is sealed, and stays so on its way through the use cases: a job
that is retried must go back as it came. It is opened last, for the one who asked.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from taskforge_server.api.service.ports import JobDict
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.execution import LogLine
from taskforge_server.engine.store.project_keys import Encryption, ProjectKeys
from taskforge_server.engine.vault.masters import MasterKeys
from taskforge_server.engine.vault.sealing import Field, UnreadableError
from taskforge_server.engine.vault.vault import Ring, Vault

log = logging.getLogger(__name__)

UNREADABLE: Final = b'{"unreadable":"the keys of the project do not open this"}'
"""What a reader sees of a text that was changed, or whose key is gone."""

_JOB_TEXTS: Final = ("payload", "output")
_EXECUTION_TEXTS: Final = ("output", "error")


class Keyring(Protocol):
    """The node's part that knows the keys."""

    async def refresh(self) -> None:
        """There may be keys that this node has not heard of."""
        ...

    async def changed(self, project_id: bytes) -> None:
        """The keys of the project were changed: when this returns it holds here."""
        ...


class Opener:
    """Opens what readers get."""

    def __init__(self, vault: Vault, keyring: Keyring | None = None) -> None:
        self._vault = vault
        self._keyring = keyring

    async def found(self, job: JobDict, executions: list[JobDict]) -> tuple[JobDict, list[JobDict]]:
        """A job with its executions, readable."""
        project_id = job["project_id"]
        texts = [job[name] for name in _JOB_TEXTS]
        texts += [execution[name] for execution in executions for name in _EXECUTION_TEXTS]
        ring = await self._ring(project_id, texts)
        if ring is None:
            return job, executions
        return _job(ring, job), [_execution(ring, execution) for execution in executions]

    async def jobs(self, project_id: bytes, jobs: list[JobDict]) -> list[JobDict]:
        """Jobs of a list, readable."""
        ring = await self._ring(project_id, [job[name] for job in jobs for name in _JOB_TEXTS])
        return jobs if ring is None else [_job(ring, job) for job in jobs]

    async def lines(self, project_id: bytes, lines: list[LogLine]) -> list[LogLine]:
        """Lines of handlers' logs, readable."""
        texts = [text for line in lines for text in (line.message.encode(), line.metadata)]
        ring = await self._ring(project_id, texts)
        return lines if ring is None else [_line(ring, line) for line in lines]

    async def schedule(self, project_id: bytes, schedule_id: bytes, payload: bytes) -> bytes:
        """The payload of a schedule's jobs, readable."""
        ring = await self._ring(project_id, [payload])
        if ring is None:
            return payload
        return _opened(ring, schedule_id, "schedule", payload) or payload

    async def _ring(self, project_id: bytes, texts: Iterable[bytes | None]) -> Ring | None:
        """The keys of the project; read anew if one of the texts needs one that is not there."""
        vault = self._vault
        if self._keyring is not None and any(vault.may_need(project_id, text) for text in texts):
            await self._keyring.refresh()
        return vault.ring(project_id)


@dataclass(frozen=True, slots=True)
class EncryptionParts:
    """What the use cases stand on."""

    vault: Vault
    keyring: Keyring
    rows: ProjectKeys
    masters: MasterKeys


class EncryptionService:
    """The use cases; each acts for one organisation only."""

    def __init__(self, parts: EncryptionParts) -> None:
        self._rows = parts.rows
        self._masters = parts.masters
        self._keyring = parts.keyring

    async def get(self, organization_id: bytes, project_id: bytes) -> Encryption:
        """NotFound."""
        return await self._rows.get(organization_id, project_id)

    async def switch(
        self, organization_id: bytes, project_id: bytes, encrypted: bool, actor: Actor
    ) -> Encryption:
        """From now on what comes in is sealed, or no longer; NotFound, Conflict."""
        state = await self._rows.switch(
            organization_id, project_id, encrypted, self._masters.new_key, actor
        )
        await self._keyring.changed(project_id)
        return state

    async def rotate(self, organization_id: bytes, project_id: bytes, actor: Actor) -> Encryption:
        """A new data key seals from now on; NotFound, Conflict."""
        state = await self._rows.add(organization_id, project_id, self._masters.new_key, actor)
        await self._keyring.changed(project_id)
        return state


def _job(ring: Ring, job: JobDict) -> JobDict:
    output: Field = "result" if job["status"] == "succeeded" else "error"
    return job | {
        "payload": _opened(ring, job["id"], "payload", job["payload"]),
        "output": _opened(ring, job["id"], output, job["output"]),
    }


def _execution(ring: Ring, execution: JobDict) -> JobDict:
    job_id = execution["job_id"]
    return execution | {
        "output": _opened(ring, job_id, "result", execution["output"]),
        "error": _opened(ring, job_id, "error", execution["error"]),
    }


def _line(ring: Ring, line: LogLine) -> LogLine:
    message = _opened(ring, line.job_id, "log", line.message.encode())
    metadata = _opened(ring, line.job_id, "log_metadata", line.metadata)
    assert message is not None
    assert metadata is not None
    return msgspec.structs.replace(line, message=message.decode(), metadata=metadata)


def _opened(ring: Ring, job_id: bytes, field: Field, text: bytes | None) -> bytes | None:
    if text is None:
        return None
    try:
        return ring.open(job_id, field, text)
    except UnreadableError:
        log.error("the %s of %s cannot be opened", field, job_id.hex())
        return UNREADABLE
