"""A node's figures for the metrics, looked up when they are asked for."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from taskforge_server.engine.observe.counters import Counters
from taskforge_server.engine.observe.metrics import LogFigures, ProjectorFigures, QueueLength

if TYPE_CHECKING:
    from taskforge_server.engine.node.node import Node


class Figures:
    """What the metrics read of a node."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    @property
    def counters(self) -> Counters:
        return self._node.core.counters

    def queue_lengths(self) -> Iterable[QueueLength]:
        for actor in self._node.core.queues():
            ref = actor.ref
            counts = actor.shard.table.counts(actor.index)
            yield QueueLength(ref.name, counts)

    def log_figures(self) -> LogFigures:
        journal, counted = self._node.journal, self._node.journal.statistics
        return LogFigures(
            commits=counted.commits,
            rows=counted.rows,
            events=counted.events,
            bytes=counted.bytes,
            retries=counted.retries,
            fenced=counted.fenced,
            commit_seconds=counted.average_s,
            available=journal.available,
        )

    def projector_figures(self) -> ProjectorFigures:
        projector = self._node.projector
        return ProjectorFigures(
            rows=projector.statistics.rows,
            lag_seconds=projector.lag_s,
            failures=projector.statistics.repeats,
        )

    def gauges(self) -> Iterable[tuple[str, str, float]]:
        node = self._node
        yield "workers_connected", "Workers with an open stream.", len(node.core.sessions)
        yield "workers_leased", "Workers that hold a lease.", len(node.core.leases)
        yield "jobs_resident", "Jobs in memory.", node.admission.resident_jobs
        yield "jobs_resident_bytes", "What they take.", node.admission.resident_bytes
        yield "jobs_unprojected", "Jobs not in the tables.", node.admission.unprojected_jobs
        yield "shards_owned", "Shards that this node owns.", len(node.core.shards)
        yield "shards_missing", "Shards that it should own.", len(node.ownership.missing)
        yield "requests_rate_limited", "Refused since the start.", node.rates.refused
        yield "execution_log_buffer_bytes", "Lines not written.", node.log_writer.bytes_held
        yield "projection_refused_rows", "Rows put aside.", node.tables.refused_rows
