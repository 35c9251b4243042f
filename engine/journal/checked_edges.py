"""Edges between jobs: what the log and the rows of the children say, against `job_dependencies`.

An edge is written with the watermark that passes the event which told of it, and deleted some time
after the row of its child. So one that was told up to the watermark is there while its child is;
of the others it does not matter. With the whole log an edge that nobody told of is found too.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from taskforge_server.engine.journal.takeover import Told
from taskforge_server.engine.model.graph import Parents, unpacked
from taskforge_server.engine.model.joboptions import read_options
from taskforge_server.engine.shard.family import MARK

Row: TypeAlias = Mapping[str, Any]
Finding: TypeAlias = tuple[str, bytes, str, str]
"""kind, id of the child, expected, found"""


class CheckedEdges:
    """The edges of the jobs of one shard: put in what is stored, then ask of each child."""

    def __init__(self, told: Iterable[Told], mark: int, *, whole: bool) -> None:
        self._mark = mark
        self._whole = whole
        self._told: dict[bytes, dict[bytes, set[str]]] = {}
        self._late: dict[bytes, set[bytes]] = {}
        """Told above the watermark: they may be there or not."""
        self._stored: dict[bytes, dict[bytes, Row]] = {}
        for lsn, child_id, parent_id, on_failure in told:
            if lsn > mark:
                self._late.setdefault(child_id, set()).add(parent_id)
            else:
                parents = self._told.setdefault(child_id, {})
                parents.setdefault(parent_id, set()).add(on_failure)

    def stored(self, row: Row) -> None:
        """A row of `job_dependencies`."""
        self._stored.setdefault(row["id"], {})[row["parent_job_id"]] = row

    def of(self, child: Row) -> Iterator[Finding]:
        """What is wrong with the edges to this job; `child` is its row."""
        child_id = child["id"]
        stored = self._stored.get(child_id, {})
        told = dict(self._told.get(child_id, {}))
        if child["lsn"] <= self._mark and (parents := _parents_of(child)) is not None:
            for edge in unpacked(parents.edges):
                told.setdefault(edge.parent_id, {edge.on_failure})
        for parent_id, policies in told.items():
            row = stored.get(parent_id)
            if row is None:
                yield "edge missing", child_id, f"parent {parent_id.hex()}", "no row"
            elif row["on_failure"] not in policies:
                yield "edge on_failure", child_id, " or ".join(sorted(policies)), row["on_failure"]
            elif row["project_id"] != child["project_id"]:
                mine, found = child["project_id"].hex(), row["project_id"].hex()
                yield "edge project_id", child_id, mine, found
        if self._whole:
            for parent_id in stored.keys() - told.keys() - self._late.get(child_id, set()):
                yield "edge unknown", child_id, "no row", f"parent {parent_id.hex()}"


def _parents_of(job: Row) -> Parents | None:
    options = job["options"]
    return read_options(options).parents if options and MARK in options else None
