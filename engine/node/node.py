"""A node: builds every adapter, wires the actors, starts and stops them in order.

    new --start--> running --drain--> draining --stop--> stopped
                      \\--something that cannot be mended--> failed (`wait_failed` returns)

    start   pool, checks ─► clock ─► journal, projector, actors ─► all shards taken over ─► upkeep
    drain   new jobs are refused, workers are told and may finish what they run
    stop    the log is written out, the tables are brought up to date, connections are closed

A node that is killed instead loses nothing: the next start takes the shards over from their logs.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry

from taskforge_server.engine import limits
from taskforge_server.engine.actors.sealed import SealedLines
from taskforge_server.engine.cluster.nextruns import NextRuns
from taskforge_server.engine.cluster.port import Cluster
from taskforge_server.engine.cluster.rates import RateLimiter, RedisBuckets
from taskforge_server.engine.cluster.redis import RedisCluster
from taskforge_server.engine.config import Config
from taskforge_server.engine.errors import ConfigError, TaskForgeError
from taskforge_server.engine.journal.journal import Journal
from taskforge_server.engine.journal.link import Connection
from taskforge_server.engine.journal.postgres import PostgresShardLog
from taskforge_server.engine.journal.projector import Projector
from taskforge_server.engine.journal.tables import PostgresTables
from taskforge_server.engine.journal.takeover import Taker
from taskforge_server.engine.journal.trimmer import Trimmer
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.node.adapters import DatabaseTime, StoredJobs
from taskforge_server.engine.node.admission import Admission
from taskforge_server.engine.node.allowances import AllowanceUpkeep
from taskforge_server.engine.node.background import Background
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.deadletters import DeadLetterUpkeep
from taskforge_server.engine.node.figures import Figures
from taskforge_server.engine.node.graphdoors import GraphDoors
from taskforge_server.engine.node.joblogs import LogNews, LogWriter
from taskforge_server.engine.node.keynews import KeyNews
from taskforge_server.engine.node.masterkeys import master_keys_of
from taskforge_server.engine.node.nodedoors import NodeDoors
from taskforge_server.engine.node.ownership import Ownership
from taskforge_server.engine.node.pager import Pager, page_jobs
from taskforge_server.engine.node.plans import Plans
from taskforge_server.engine.node.projectkeys import ProjectKeyring
from taskforge_server.engine.node.queuenews import QueueNews
from taskforge_server.engine.node.retention import RetentionUpkeep
from taskforge_server.engine.node.rosternews import RosterNews
from taskforge_server.engine.node.scheduler import Scheduler
from taskforge_server.engine.node.tokennews import TokenNews
from taskforge_server.engine.node.workercount import WorkerCount
from taskforge_server.engine.node.workerrows import WorkerRows, moment
from taskforge_server.engine.observe.metrics import NodeCollector
from taskforge_server.engine.runtime import allocator
from taskforge_server.engine.runtime.actor import Actor
from taskforge_server.engine.runtime.clock import DatabaseClock
from taskforge_server.engine.runtime.service import Part, Services
from taskforge_server.engine.store.assignments import Assignments
from taskforge_server.engine.store.dead_letters import DeadLetters
from taskforge_server.engine.store.dependencies import JobDependencies
from taskforge_server.engine.store.execution_logs import ExecutionLogs
from taskforge_server.engine.store.invitations import Invitations
from taskforge_server.engine.store.job_queries import JobQueries
from taskforge_server.engine.store.loader import expire_idempotency_keys
from taskforge_server.engine.store.migrate import check_prepared
from taskforge_server.engine.store.partitions import ensure_partitions
from taskforge_server.engine.store.pool import Pool, acquire, check_server, connect, open_pool
from taskforge_server.engine.store.project_keys import ProjectKeys
from taskforge_server.engine.store.queues import Queues
from taskforge_server.engine.store.revocations import TokenRevocations
from taskforge_server.engine.store.schedules import Schedules
from taskforge_server.engine.store.sessions import Sessions
from taskforge_server.engine.store.signing_keys import SigningKeys
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.subscriptions import Subscriptions
from taskforge_server.engine.store.tenancy import check_roles
from taskforge_server.engine.store.usage import UsageRows
from taskforge_server.engine.store.workers import Workers

log = logging.getLogger(__name__)

NO_EDGE = (bytes(16), bytes(16))


class Node:
    """One process's share of the work: all shards of the database, in this version."""

    pool: Pool
    core: Core
    doors: NodeDoors
    ownership: Ownership
    registry: CollectorRegistry

    def __init__(self, config: Config, cluster: Callable[[str], Cluster] | None = None) -> None:
        """`cluster`: how a node of this id talks, if not over the Redis of the configuration."""
        self.config = config
        self.masters = master_keys_of(config)
        self.node_id = f"{config.node_name}/{secrets.token_hex(4)}"
        self.cluster = (
            RedisCluster(config.redis_url, self.node_id)
            if cluster is None
            else cluster(self.node_id)
        )
        self._over_redis = cluster is None
        self._services = Services()
        self._failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._background = Background(self._fail)
        self._started = False
        self._edges_seen = NO_EDGE
        self._unavailable_since_us = 0
        self._work_seen = self._work_given_back = (0, 0)

    # life

    async def start(self, open_door: Callable[[], Awaitable[None]] | None = None) -> None:
        """Everything up to the point where all shards are served. `open_door` is called before the
        first of them is taken: what comes through it is answered as far as shards are there."""
        config = self.config
        start = self._services.start
        await start(Part("pool", self._open_pool, self._close_pool))
        self.clock = DatabaseClock(DatabaseTime(self.pool).measure_us)
        await start(Part("clock", self.clock.start, self.clock.stop))
        self.log = PostgresShardLog(lambda: self._connect("journal"))
        await start(Part("log", None, self.log.close))
        self.journal = Journal(self.log)
        self.tables = PostgresTables(lambda: self._connect("projector"), self.journal.pace)
        await start(Part("tables", None, self.tables.close))
        self._build()
        await start(Part("projector", self._start_projector, self._stop_projector))
        await start(Part("journal", self._start_journal, self._stop_journal))
        await start(Part("actors", self._start_core, self.core.stop))
        await start(Part("pager", self._start_pager, self._stop_pager))
        await start(Part("cluster", self.cluster.start, self.cluster.stop))
        await start(Part("roster", self.roster_news.read_all, None))
        await start(Part("encryption", self.keyring.start, None))
        await start(Part("signing keys", self.signing_keys.start, None))
        await start(Part("revoked tokens", self.token_news.read, None))
        await start(Part("usage", lambda: self.allowances.read_elsewhere(True), None))
        await start(Part("door", open_door, None))
        await start(Part("ownership", self._take_shards, self.ownership.stop))
        await start(Part("upkeep", self._start_upkeep, self._stop_upkeep))
        self._started = True
        log.info("node %s owns %d shards", self.node_id, config.shards)

    async def drain(self) -> None:
        """Refuse new jobs, let workers finish what they run, for as long as is allowed."""
        self.admission.draining = True
        self.core.drain()
        try:
            async with asyncio.timeout(self.config.drain_timeout_s):
                await self.core.idle()
        except TimeoutError:
            log.warning("workers still run jobs; they keep their leases")

    async def stop(self) -> None:
        """Write out what is decided, and close everything."""
        await self._services.stop()

    async def wait_failed(self) -> Exception:
        """Returns when the node cannot go on."""
        return await asyncio.shield(self._failure)

    def ready(self) -> list[str]:
        """What keeps the node from taking jobs; nothing when it does."""
        if not self._started:
            return ["the node is starting"]
        reasons = self.admission.closed()
        if missing := len(self.ownership.missing):
            reasons.append(f"{missing} shards are not here")
        if self._failure.done():
            reasons.append("the node has failed")
        return reasons

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_result(error)

    def _actor_failed(self, actor: Actor[Any]) -> None:
        self._fail(RuntimeError(f"{actor.name} failed too often"))

    # building

    def _build(self) -> None:
        """The parts that do no I/O by themselves, wired."""
        config, clock = self.config, self.clock
        self.queues = Queues(self.pool, config.shards)
        self.workers = Workers(self.pool)
        self.worker_rows = WorkerRows(self.workers, lambda worker_id: self.core.expel(worker_id))
        self.subscriptions = Subscriptions(self.pool)
        self.usage_rows = UsageRows(self.pool, clock.now_us)
        self.queue_news = QueueNews(self.cluster, self.queues)
        self.sessions = Sessions(self.pool)
        self.invitations = Invitations(self.pool)
        self.signing_keys = SigningKeys(self.pool, self.masters)
        self.token_revocations = TokenRevocations(self.pool)
        self.token_news = TokenNews(self.cluster, self.token_revocations)
        self.key_news = KeyNews(self.cluster)
        self.assignments = Assignments(self.pool)
        self.projector = Projector(self.tables, clock.now_us, config.tick_s, config.settle_s)
        self.trimmer = Trimmer(self.log, self.projector.watermarks)
        self.core = Core(
            clock, self.journal, config.lease_ttl_s, self._actor_failed, self._worker_ended
        )
        self.admission = Admission(
            config.memory_bytes_max,
            limits.UNPROJECTED_JOBS_MAX,
            lambda: self.journal.available,
            self.core.counters,
        )
        self.log_news = LogNews(self.cluster)
        self.log_writer = LogWriter(ExecutionLogs(self.pool), self.log_news, self.core.counters)
        self.job_rows = JobQueries(self.pool)
        self.core.dependencies.rows = self.job_rows
        self.job_edges = JobDependencies(self.pool)
        self.core.logs.sink = SealedLines(self.log_writer, self.core.vault, self.core.counters)
        self.project_keys = ProjectKeys(self.pool)
        self.keyring = ProjectKeyring(
            self.project_keys, self.masters, self.core.vault, self.cluster, self._keys_whole
        )
        self.rates = RateLimiter(RedisBuckets(config.redis_url) if self._over_redis else None)
        self.allowances = AllowanceUpkeep(self.core, self.subscriptions, self.usage_rows)
        self.plans = Plans(self.subscriptions, self.cluster, learned=self.allowances.learned)
        self.worker_count = WorkerCount(
            self.core,
            self.plans,
            self.worker_rows,
            self.subscriptions,
            config.lease_ttl_s,
            clock.now_us,
        )
        stored = self._build_pager()
        self.doors = NodeDoors(self)
        self.graphs = GraphDoors(
            self.core, self.doors, self.admission, self.job_rows, config.shards
        )
        self._build_scheduler()
        self._build_dead_letters()
        self._build_retention()
        self.queue_news.listeners.append(self.core.update)
        self.roster_news = RosterNews(self.cluster, self.workers, self.assignments, self.core)
        self.ownership = Ownership(
            self.node_id,
            self.core,
            self.journal,
            self.projector,
            self.log,
            Taker(
                self.log,
                stored,
                self.node_id,
                clock.now_us,
                self.core.new_table,
                page_jobs(config.resident_jobs_max),
            ),
            self.cluster,
            self._read_queues,
            self._fail,
            self.usage_rows.of_shard,
            at_once_max=max(1, config.postgres_connections // 2),
        )
        self.registry = CollectorRegistry()
        self.registry.register(NodeCollector(Figures(self)))

    def _build_scheduler(self) -> None:
        self.schedules = Schedules(self.pool)
        self.next_runs = NextRuns(self.config.redis_url) if self._over_redis else None
        moved = None if self.next_runs is None else self.next_runs.moved
        self.scheduler = Scheduler(self.core, self.doors, self.schedules, self.cluster, moved)

    def _build_dead_letters(self) -> None:
        self.dead_letters = DeadLetters(self.pool)
        self.dead_letter_upkeep = DeadLetterUpkeep(
            self.core, self.dead_letters, self.doors, self.find_queue
        )

    def _build_retention(self) -> None:
        async def connected() -> Connection:
            return await connect(
                self.config.postgres_url,
                application_name="taskforge retention",
                statement_timeout_s=limits.BULK_TIMEOUT_S,
            )

        self.retention = RetentionUpkeep(
            connected,
            self.subscriptions,
            self.core.counters,
            lambda: moment(self.clock.now_us()),
        )

    def _build_pager(self) -> StoredJobs:
        """The pager, and what it reads."""
        stored = StoredJobs(
            self.pool, self.clock, self.keyring.read, lambda: self._connect("counting")
        )
        self.pager = Pager(
            self.core,
            stored,
            self.config.resident_jobs_max,
            lambda: self.admission.resident_bytes > self.config.memory_bytes_max // 2,
            lambda: self.tables.refused_shards,
            self.projector.hurry,
        )
        return stored

    async def _read_queues(self) -> Iterable[QueueRef]:
        await self.allowances.read_owners()
        return [queue.ref() for queue in await self.queues.all()]

    async def find_queue(self, project_id: bytes, queue: bytes | str) -> QueueRef:
        """By id or name; NotFound."""
        return (await self.queues.get(project_id, queue)).ref()

    async def _connect(self, purpose: str) -> Connection:
        return await connect(self.config.postgres_url, application_name=f"taskforge {purpose}")

    # the parts' lives

    async def _open_pool(self) -> None:
        config = self.config
        self.pool = await open_pool(
            config.postgres_url,
            application_name="taskforge",
            connections_max=config.postgres_connections,
        )
        try:
            async with acquire(self.pool) as connection:
                await check_server(connection, unsafe=config.unsafe)
                await check_schema(connection, config.shards)
                await check_roles(connection)
        except BaseException:
            self.pool.terminate()
            raise

    async def _close_pool(self) -> None:
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_S):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()

    async def _start_projector(self) -> None:
        self._background.start("projector", self.projector.run())
        if not self.config.log_retention_all:
            self._background.start("trimmer", self.trimmer.run())

    async def _stop_projector(self) -> None:
        try:
            async with asyncio.timeout(limits.FLUSH_S):
                await self.projector.flush()
        except TimeoutError:
            log.warning("the tables are behind the log; the next start catches up")
        await self._background.stop()

    async def _start_journal(self) -> None:
        self._background.start("journal", self.journal.run())

    async def _stop_journal(self) -> None:
        try:
            async with asyncio.timeout(limits.FLUSH_S):
                await self.journal.settle()
        except TimeoutError:
            log.warning("the log is away: what was not acknowledged is forgotten")
        self.journal.stop()
        await self._background.wait("journal")

    async def _start_core(self) -> None:
        self.core.start()

    async def _start_pager(self) -> None:
        self._background.start("pager", self.pager.run())

    async def _stop_pager(self) -> None:
        await self._background.stop("pager")
        await self.pager.stop()

    async def _take_shards(self) -> None:
        await self.ownership.take_all(range(self.config.shards))

    async def _start_upkeep(self) -> None:
        every = self._background.every
        self.admission.measure(self.core.shards.values())
        every("sweep", limits.SWEEP_S, self._sweep)
        every("memory", limits.GIVE_BACK_S, self._give_back)
        self._background.start("dependencies", self.core.dependencies.run())
        self._background.start("worker rows", self.worker_rows.run())
        self._background.start("queue news", self.queue_news.run())
        self._background.start("project keys", self.keyring.run())
        self._background.start("token news", self.token_news.run())
        self._background.start("roster news", self.roster_news.run())
        self._background.start("execution logs", self.log_writer.run())
        self._background.start("rates", self.rates.run())
        self._background.start("schedules", self.scheduler.watch())
        self._background.start("ticks", self.scheduler.run())
        if self.next_runs is not None:
            self._background.start("next runs", self.next_runs.run(self.scheduler))
        self._background.start("dead letter hooks", self.dead_letter_upkeep.run())
        every("dead letters", limits.DEAD_LETTERS_SWEEP_S, self.dead_letter_upkeep.expire)
        every("usage", limits.USAGE_READ_S, self._usage_elsewhere)
        every("workers seen", limits.WORKER_ROWS_S, self._workers_seen)
        every("silent workers", self.config.lease_ttl_s, self._forget_silent)
        every("unkept logs", limits.LOG_UNKEPT_S, self._delete_unkept_logs)
        every("upkeep", limits.UPKEEP_S, self._upkeep)
        every("retention", limits.RETENTION_S, self.retention.sweep)

    async def _stop_upkeep(self) -> None:
        self.rates.stop()
        await self._stop_scheduler()
        await self._background.stop(
            "rates",
            "dead letter hooks",
            "dead letters",
            "usage",
            "sweep",
            "memory",
            "dependencies",
            "worker rows",
            "queue news",
            "token news",
            "roster news",
            "workers seen",
            "silent workers",
            "unkept logs",
            "upkeep",
            "retention",
        )
        await self.rates.close()
        await self._stop_log_writer()
        for worker in list(self.core.sessions):
            self._worker_ended(worker.hello.worker_id)
        try:
            await self.worker_rows.write()
        except TaskForgeError as error:
            log.warning("workers not written: %s", error)

    async def _stop_scheduler(self) -> None:
        await self._background.stop("schedules", "ticks")
        if self.next_runs is not None:
            self.next_runs.stop()
            await self._background.stop("next runs")
            await self.next_runs.close()
        try:
            async with asyncio.timeout(limits.FLUSH_S / 2):
                await self.scheduler.written()
        except TimeoutError:
            log.warning("ticks of schedules were not written; the log knows their jobs")

    async def _stop_log_writer(self) -> None:
        """Lines that came before the end are written, if the database is there."""
        try:
            async with asyncio.timeout(limits.LOG_FLUSH_S):
                await self.log_writer.flush()
        except TimeoutError:
            log.warning("lines of handlers were not written; their workers keep them")
        await self._background.stop("execution logs")

    # upkeep

    def _sweep(self) -> None:
        self.core.sweep()
        self.admission.measure(self.core.shards.values())
        now_us = self.clock.monotonic_us()
        if self.journal.available:
            self._unavailable_since_us = 0
        elif not self._unavailable_since_us:
            self._unavailable_since_us = now_us
        elif now_us - self._unavailable_since_us > limits.REPLY_WAIT_S * 1e6:
            self.core.refuse_replies()

    def _keys_whole(self) -> None:
        """Jobs that waited for the keys of their project may start."""
        for shard in self.core.shards.values():
            self.core.touched(shard)

    def _give_back(self) -> None:
        """After each spell of work, once nothing was written for an interval."""
        work = (self.journal.statistics.commits, self.admission.unprojected_jobs)
        if work == self._work_seen and work != self._work_given_back:
            self._work_given_back = work
            allocator.give_back()
        self._work_seen = work

    def _workers_seen(self) -> None:
        for worker_id, draining, seen_us in self.core.leases.heard():
            self.worker_rows.status(worker_id, "draining" if draining else "online", seen_us)

    def _worker_ended(self, worker_id: bytes) -> None:
        self.worker_rows.status(worker_id, "offline", self.clock.now_us())

    async def _usage_elsewhere(self) -> None:
        await self.allowances.read_elsewhere(bool(self.ownership.missing))

    async def _delete_unkept_logs(self) -> None:
        await self.log_writer.delete_unkept(self.core.logs.in_the_tables())

    async def _upkeep(self) -> None:
        """Partitions ahead, old keys and silent workers away."""
        now_us = self.clock.now_us()
        async with acquire(self.pool) as connection:
            await ensure_partitions(connection)
            await expire_idempotency_keys(connection, now_us, limits.UPKEEP_ROWS_MAX)
        kept_us = now_us - round(limits.SCHEDULE_KEY_KEPT_S * 1e6)
        await self.schedules.expire_keys(moment(kept_us), limits.UPKEEP_ROWS_MAX)
        await self.sessions.expire(limits.UPKEEP_ROWS_MAX)
        await self.invitations.expire(limits.UPKEEP_ROWS_MAX)
        await self.token_revocations.expire(limits.REVOCATIONS_KEPT_S, limits.UPKEEP_ROWS_MAX)
        await self.signing_keys.ensure()
        deleted_us = now_us - round(limits.QUEUE_KEPT_S * 1e6)
        await self.queues.expire(moment(deleted_us), limits.UPKEEP_ROWS_MAX)
        kept_us = round(limits.WORKER_KEPT_S * 1e6)
        await self.workers.expire(
            moment(now_us - kept_us), limits.WORKERS_KEPT_MAX, limits.UPKEEP_ROWS_MAX
        )
        await self.expire_edges()

    async def expire_edges(self, kept_s: float = limits.PARENT_KEPT_S) -> None:
        """Some edges whose jobs are gone, and parents that only stayed for their children."""
        ended_before = moment(self.clock.now_us() - round(kept_s * 1e6))
        self._edges_seen = (
            await self.job_edges.expire(self._edges_seen, ended_before, limits.EDGES_EXPIRE_ROWS)
            or NO_EDGE
        )

    async def _forget_silent(self) -> None:
        """Whoever is written down as connected and was heard of by no node is gone."""
        silent_us = round(self.config.lease_ttl_s * 2e6)
        await self.workers.forget(moment(self.clock.now_us() - silent_us))


async def check_schema(connection: Any, shards: int) -> None:
    """Refuse a database that was not prepared, or was made for another number of shards."""
    await check_prepared(connection)
    known = await connection.fetchval(sql("shards_count"))
    if known != shards:
        problem = f"{shards} is not {known}, the number of shards that this database was made for"
        raise ConfigError("shards", "configuration", problem)
