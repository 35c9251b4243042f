"""A node with its HTTP API, from the configuration to a clean end.

start node ─► listen ─► serve until SIGTERM, SIGINT or a failure ─► drain ─► close ─► stop node
"""

import asyncio
import errno
import logging
import signal
from collections.abc import Callable

from taskforge_server.api.server import ApiPorts, ApiServer
from taskforge_server.api.service.allowances import AllowancePorts
from taskforge_server.api.service.encryption import EncryptionParts
from taskforge_server.api.service.graphs import GraphPorts
from taskforge_server.api.service.identity import IdentityParts
from taskforge_server.api.service.inbox import InboxPorts
from taskforge_server.api.service.schedules import SchedulePorts
from taskforge_server.api.service.tenants import TenantRows
from taskforge_server.api.service.workers import WorkerPorts
from taskforge_server.engine import limits
from taskforge_server.engine.cluster.attempts import redis_attempts
from taskforge_server.engine.config import Config
from taskforge_server.engine.errors import ConfigError, Conflict, NotFound
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.node.masterkeys import master_keys_of
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.runtime import allocator
from taskforge_server.engine.runtime.tls import ServerTls
from taskforge_server.engine.store.api_keys import ApiKeys
from taskforge_server.engine.store.audit import AuditLog
from taskforge_server.engine.store.bootstrap import Bootstrapped, bootstrap
from taskforge_server.engine.store.execution_logs import ExecutionLogs
from taskforge_server.engine.store.inbox import Inbox, InboxBell
from taskforge_server.engine.store.migrate import migrate
from taskforge_server.engine.store.pool import acquire, open_pool
from taskforge_server.engine.store.queues import Queues
from taskforge_server.engine.store.signup import SignUps
from taskforge_server.engine.store.tenants import Projects
from taskforge_server.engine.store.users import Users

log = logging.getLogger(__name__)

DEFAULT_QUEUE = "default"


async def prepare(config: Config) -> Bootstrapped:
    """Bring the schema up to date; make the first organisation, project, queue and API key.
    Refused without a master key: nodes would be, too."""
    master_keys_of(config)
    pool = await open_pool(
        config.postgres_url, application_name="taskforge migrate", connections_max=1
    )
    try:
        await migrate(config.postgres_url)
        async with acquire(pool) as connection:
            made = await bootstrap(connection, config.shards, config.api_key)
        await _ensure_queue(Queues(pool, config.shards), made.project_id)
        return made
    finally:
        await pool.close()


async def _ensure_queue(queues: Queues, project_id: bytes) -> None:
    """A queue named `default`, which the SDKs take when none is given."""
    try:
        await queues.get(project_id, DEFAULT_QUEUE)
    except NotFound:
        try:
            await queues.create(project_id, DEFAULT_QUEUE, 0, QueueSettings())
        except Conflict:
            pass  # another process was quicker


async def serve(config: Config, listening: Callable[[int], None] = lambda port: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises what made the node fail.

    `listening` is called once with the port, when all shards are there.
    """
    allocator.map_large_blocks()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tls = server_tls(config)
    if tls is not None:
        loop.add_signal_handler(signal.SIGHUP, reload_certificate, tls)
    node = Node(config)
    door = Door(node, config, tls)
    try:
        await node.start(door.open)
        allocator.keep()
        listening(door.port)
        await _ended(node, stop)
        log.info("draining")
        await node.drain()
    finally:
        try:
            await door.close()
        finally:
            await node.stop()
    log.info("stopped")


class Door:
    """The interface of a node, open as soon as the node can answer: who comes while shards are
    still being taken gets what is there, and `/readyz` says that it is not all."""

    def __init__(self, node: Node, config: Config, tls: ServerTls | None) -> None:
        self._node = node
        self._config = config
        self._context = None if tls is None else tls.context
        self._api: ApiServer | None = None
        self.port = 0

    async def open(self) -> None:
        self._api = api = api_of(self._node)
        self._node.queue_news.listeners.append(api.catalog.forget)
        self._node.key_news.listeners.append(api.authenticator.forget)
        config = self._config
        try:
            self.port = await api.start(config.host, config.port, tls=self._context)
        except OSError as error:
            where = f"cannot listen on {config.host}, port {config.port}"
            if error.errno != errno.EADDRINUSE:
                raise OSError(f"{where}: {error}") from None
            problem = f"{where}, which another process uses: give another port, or 0 for a free one"
            raise OSError(problem) from None

    async def close(self) -> None:
        if self._api is not None:
            await self._api.stop(min(self._config.drain_timeout_s, limits.DRAIN_S))


def server_tls(config: Config) -> ServerTls | None:
    """What the API shows to its callers; None: it speaks plain HTTP. ConfigError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    return ServerTls(config.tls_cert, config.tls_key)


def reload_certificate(tls: ServerTls) -> None:
    """Take a renewed certificate into use; a bad one is logged, and the old one stays."""
    try:
        tls.reload()
    except ConfigError as error:
        log.error("the certificate was not reloaded: %s", error)
    else:
        log.info("the certificate was reloaded")


def api_of(node: Node, inbox: InboxPorts | None = None) -> ApiServer:
    """The interface of a node, which makes the jobs of its schedules, too; `inbox` in place of its
    own."""
    api = ApiServer(
        ApiPorts(
            engine=node.doors,
            queues=node.queues,
            jobs=node.job_rows,
            dead_letters=node.dead_letters,
            workers=WorkerPorts(node.doors, node.workers, node.assignments),
            graphs=GraphPorts(node.graphs, node.job_edges, node.job_rows),
            logs=ExecutionLogs(node.pool),
            log_feed=node.log_writer,
            keys=ApiKeys(node.pool),
            tenants=TenantRows.of(node.pool),
            key_changed=node.key_news.tell,
            projects=Projects(node.pool),
            encryption=EncryptionParts(
                node.core.vault, node.keyring, node.project_keys, node.masters
            ),
            allowances=AllowancePorts(
                node.plans,
                node.rates,
                node.core.usage,
                node.usage_rows,
                node.subscriptions,
                node.doors,
            ),
            inbox=inbox or _inbox_of(node),
            audit=AuditLog(node.pool),
            identity=_identity_of(node),
            trusted_proxies=node.config.trusted_proxies,
            registry=node.registry,
            ready=node.ready,
            schedules=SchedulePorts(node.doors, node.schedules, node.core.vault),
        )
    )
    node.scheduler.use(api.tick_makers)
    return api


def _inbox_of(node: Node) -> InboxPorts:
    return InboxPorts(
        Inbox(node.pool),
        lambda ring: InboxBell(node.config.postgres_url, ring),
        lambda: list(node.core.shards),
    )


def _identity_of(node: Node) -> IdentityParts:
    return IdentityParts(
        users=Users(node.pool),
        sessions=node.sessions,
        invitations=node.invitations,
        sign_ups=SignUps(node.pool),
        projects=Projects(node.pool),
        attempts=redis_attempts(node.config.redis_url),
        signing_keys=node.signing_keys,
        news=node.token_news,
        signup_open=node.config.signup_open,
    )


async def _ended(node: Node, stop: asyncio.Event) -> None:
    """Wait for the signal; raise when the node fails first."""
    waiting = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(node.wait_failed())
    try:
        await asyncio.wait({waiting, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise failing.result()
    finally:
        waiting.cancel()
        failing.cancel()
