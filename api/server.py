"""The HTTP server of a node: REST and worker streams behind one port.

Whoever wires a node gives the services' ports; this builds the interface, listens and stops:

    stop listening ──► close worker streams ──► answer what is under way ──► close connections
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry

from taskforge_server.api.auth.lastused import LastUsed, UseWriter
from taskforge_server.api.auth.passwords import Passwords
from taskforge_server.api.auth.people import People
from taskforge_server.api.auth.principals import Authenticator, KeyReader, ProjectReader
from taskforge_server.api.auth.tokens import AccessTokens, KeyRing
from taskforge_server.api.rest.front import Door, step_aside
from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.metrics import InboxCounts
from taskforge_server.api.rest.openapi import document
from taskforge_server.api.rest.proxies import Proxies
from taskforge_server.api.rest.table import ROUTES
from taskforge_server.api.service.allowances import AllowancePorts, Allowances
from taskforge_server.api.service.audit import AuditReader, AuditService
from taskforge_server.api.service.catalog import QueueCatalog
from taskforge_server.api.service.control import ActTeller, ControlService
from taskforge_server.api.service.dead_letters import DeadLetterRows, DeadLetterService
from taskforge_server.api.service.encryption import EncryptionParts, EncryptionService, Opener
from taskforge_server.api.service.events import EventService
from taskforge_server.api.service.graphs import GraphPorts, GraphService
from taskforge_server.api.service.identity import Identity, IdentityParts
from taskforge_server.api.service.inbox import InboxDrain, InboxPorts
from taskforge_server.api.service.joblogs import JobLogService
from taskforge_server.api.service.jobs import JobService
from taskforge_server.api.service.people import PeopleService
from taskforge_server.api.service.ports import (
    Engine,
    JobReader,
    LogFeed,
    LogReader,
    QueueRepository,
)
from taskforge_server.api.service.queues import QueueService
from taskforge_server.api.service.schedules import (
    SchedulePorts,
    ScheduleService,
    TickMakers,
)
from taskforge_server.api.service.tenants import TenantRows, TenantService
from taskforge_server.api.service.waits import WaitService
from taskforge_server.api.service.workers import WorkerPorts, WorkerService
from taskforge_server.api.stream.session import WorkerStreams
from taskforge_server.engine import limits
from taskforge_server.engine.config import Network
from taskforge_server.engine.model.permissions import WORKERS_CONNECT

log = logging.getLogger(__name__)


class KeyRows(KeyReader, UseWriter, Protocol):
    """The rows of API keys, as the credentials need them."""


class AuditRows(AuditReader, ActTeller, Protocol):
    """The audit logs, read and told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiPorts:
    """What the interface stands on."""

    engine: Engine
    queues: QueueRepository
    jobs: JobReader
    dead_letters: DeadLetterRows
    workers: WorkerPorts
    logs: LogReader
    log_feed: LogFeed
    keys: KeyRows
    projects: ProjectReader
    tenants: TenantRows
    audit: AuditRows
    identity: IdentityParts | None = None
    """Without it nobody can log in: API keys alone are known."""
    graphs: GraphPorts | None = None
    """Without them no job waits for another."""
    encryption: EncryptionParts | None = None
    """Without it nothing is sealed, and nothing opened."""
    schedules: SchedulePorts | None = None
    """Without it there are none."""
    allowances: AllowancePorts | None = None
    """Without them nothing is limited."""
    inbox: InboxPorts | None = None
    """Without it nobody takes what applications enqueue by SQL."""
    registry: CollectorRegistry
    ready: Callable[[], list[str]]
    """What keeps the node from taking requests; nothing when it does."""
    key_changed: Callable[[bytes], None] = lambda key_id: None
    """Told the id of an API key that was changed here."""
    trusted_proxies: Sequence[Network] = ()
    """Whose word about the address of a caller is taken."""
    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX_DEFAULT


class ApiServer:
    """Listens from `start` to `stop`. `catalog` and `authenticator` are told what has changed."""

    def __init__(self, ports: ApiPorts) -> None:
        self.catalog = QueueCatalog(ports.queues)
        self.last_used = LastUsed(ports.keys)
        known, self.identity, people = _people(ports.identity)
        self.authenticator = Authenticator(
            ports.keys, ports.projects, people=known, used=self.last_used.note
        )
        self.streams = WorkerStreams(ports.engine, self.catalog, step_aside, self._check_worker)
        self.audit = AuditService(ports.audit)
        sealed = ports.encryption
        opener = None if sealed is None else Opener(sealed.vault, sealed.keyring)
        jobs = JobService(ports.engine, ports.jobs, self.catalog, opener)
        allowances = Allowances(ports.allowances, ports.engine.now_us)
        graphs = None if ports.graphs is None else GraphService(ports.graphs, jobs)
        self.inbox: InboxDrain | None = None
        if ports.inbox is not None:
            self.inbox = InboxDrain(
                ports.inbox, jobs, self.catalog, allowances, graphs, ports.payload_bytes_max
            )
            ports.registry.register(InboxCounts(self.inbox.counts))
        self.tick_makers = TickMakers(allowances)
        schedules = None
        if ports.schedules is not None:
            schedules = ScheduleService(ports.schedules, jobs, self.catalog, jobs.opener)
        services = Services(
            engine=ports.engine,
            queues=QueueService(ports.engine, ports.queues, self.catalog),
            jobs=jobs,
            control=ControlService(ports.engine, jobs, ports.audit),
            graphs=graphs,
            logs=JobLogService(ports.engine, jobs, ports.logs, ports.log_feed),
            events=EventService(ports.engine, jobs),
            waits=WaitService(ports.engine, ports.jobs, jobs.opener),
            workers=WorkerService(ports.workers, self.catalog),
            allowances=allowances,
            schedules=schedules,
            catalog=self.catalog,
            dead_letters=DeadLetterService(
                ports.engine, ports.dead_letters, self.catalog, jobs.opener
            ),
            tenants=TenantService(ports.tenants, ports.key_changed),
            encryption=None if sealed is None else EncryptionService(sealed),
            audit=self.audit,
            identity=self.identity,
            people=people,
            registry=ports.registry,
            ready=ports.ready,
            openapi=msgspec.json.encode(document(ROUTES)),
            payload_bytes_max=ports.payload_bytes_max,
        )
        self._door = Door(
            services,
            self.authenticator,
            self.streams.handle,
            Proxies(ports.trusted_proxies),
        )
        self._listener: asyncio.Server | None = None

    async def start(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> int:
        """Listen; returns the port, which is a free one for 0. With `tls`, to HTTPS alone."""
        self._listener = await asyncio.get_running_loop().create_server(
            self._door,
            host,
            port,
            backlog=limits.CONNECTIONS_BACKLOG,
            reuse_port=reuse_port or None,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else limits.TLS_HANDSHAKE_S,
            ssl_shutdown_timeout=None if tls is None else limits.TLS_SHUTDOWN_S,
        )
        self._door.start()
        self.last_used.start()
        self.streams.start()
        if self.inbox is not None:
            self.inbox.start()
        bound: int = self._listener.sockets[0].getsockname()[1]
        log.info("listening on %s port %d", host, bound)
        return bound

    async def _check_worker(self, header: str | None) -> None:
        principal = await self.authenticator.authenticate(header)
        principal.require(WORKERS_CONNECT)

    async def stop(self, timeout_s: float = limits.DRAIN_S) -> None:
        """Take no more connections, and end those that are there after what they wait for."""
        if self._listener is not None:
            self._listener.close()
        if self.inbox is not None:
            await self.inbox.stop()
        await self.streams.stop()
        await self._door.stop(timeout_s)
        await self.last_used.stop()
        if self.identity is not None:
            await self.identity.close()
        if self._listener is not None:
            await self._listener.wait_closed()


def _people(
    parts: IdentityParts | None,
) -> tuple[People | None, Identity | None, PeopleService | None]:
    """Who knows people by their tokens, and their use cases, where accounts are kept."""
    if parts is None:
        return None, None, None
    tokens = AccessTokens(KeyRing(parts.signing_keys))
    return (
        People(tokens, parts.news),
        Identity(parts, Passwords(), tokens),
        PeopleService(parts.users, parts.invitations, parts.news),
    )
