"""What jobs wait for: edges from parents to a child, what the end of a parent means, and graphs.

    parent succeeded             every edge is satisfied
    parent failed, cancelled     block:       the child goes on waiting: the parent may be retried
                                 cancel:      the child is cancelled, and so on down
                                 run_anyway:  satisfied
    parent gone for good         block, cancel: the child is cancelled; run_anyway: satisfied

A child starts when the last of its edges is satisfied. Its own options hold the edges that were
open when they were last written (`Parents`); a job without open edges waits for nobody.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from taskforge_server.engine.model.job import FINAL, JobStatus

OnFailure = Literal["block", "cancel", "run_anyway"]
POLICIES: Final[tuple[OnFailure, ...]] = get_args(OnFailure)

PARENT_FAILED: Final = "parent_failed"
PARENT_GONE: Final = "parent_gone"
"""Why a child was cancelled; gone: a parent's row was deleted, so that nobody can retry it."""

ID_BYTES: Final = 16
EDGE_BYTES: Final = 17
_DONE: Final = 0x80


class Edge(NamedTuple):
    """One parent of a child."""

    parent_id: bytes
    on_failure: OnFailure
    done: bool = False
    """Satisfied before the child was told of it."""

    @classmethod
    def to(cls, parent_id: bytes, on_failure: OnFailure, status: JobStatus) -> "Edge":
        """To a parent that is there and is in this state."""
        return cls(parent_id, on_failure, verdict(on_failure, status) == "satisfied")


class Parents(msgspec.Struct, frozen=True, omit_defaults=True):
    """The edges of a job as its options keep them: base64 of 17 bytes an edge, the id and the
    policy, in their order. Ten thousand edges are 230 KB."""

    edges: str
    not_before_us: int = 0
    """When the job may start, parents or not; 0: at once."""


def packed(edges: Iterable[Edge]) -> str:
    """The inverse of `unpacked`."""
    return b64encode(
        b"".join(
            edge.parent_id + bytes([POLICIES.index(edge.on_failure) | (_DONE if edge.done else 0)])
            for edge in edges
        )
    ).decode()


def unpacked(text: str) -> list[Edge]:
    """The edges of `Parents.edges`."""
    data = b64decode(text)
    return [
        Edge(
            data[at : at + ID_BYTES],
            POLICIES[data[at + ID_BYTES] & ~_DONE],
            bool(data[at + ID_BYTES] & _DONE),
        )
        for at in range(0, len(data), EDGE_BYTES)
    ]


Verdict = Literal["open", "satisfied", "cancel", "gone"]


def verdict(on_failure: OnFailure, status: JobStatus | None) -> Verdict:
    """What a parent in this state means for the child. None: it ended and its row was deleted, so
    it can neither be shown to have succeeded nor be retried."""
    if status == "succeeded":
        return "satisfied"
    if status is not None and status not in FINAL:
        return "open"
    if on_failure == "run_anyway":
        return "satisfied"
    if status is None:
        return "gone"
    return "cancel" if on_failure == "cancel" else "open"


def levels(parents: Sequence[Iterable[int]]) -> tuple[list[list[int]], list[int]]:
    """The places of the jobs by level, parents in lower levels than their children, each level in
    the order given; and the places of one cycle, if there is one, its first one again at the end.
    """
    waits = [len(set(of_job)) for of_job in parents]
    children: list[list[int]] = [[] for _ in parents]
    for place, of_job in enumerate(parents):
        for parent in set(of_job):
            children[parent].append(place)
    found: list[list[int]] = []
    level = [place for place, count in enumerate(waits) if not count]
    while level:
        found.append(level)
        following = []
        for parent in level:
            for child in children[parent]:
                waits[child] -= 1
                if not waits[child]:
                    following.append(child)
        level = sorted(following)
    left = {place for place, count in enumerate(waits) if count}
    if not left:
        return found, []
    # Whoever is left has a parent that is left: going up, a job comes twice.
    path: dict[int, int] = {}
    place = min(left)
    while place not in path:
        path[place] = len(path)
        place = min(parent for parent in parents[place] if parent in left)
    cycle = list(path)[path[place] :]
    return found, [place, *reversed(cycle)]


def path_up(
    starts: Iterable[bytes],
    target: bytes,
    parents: Mapping[bytes, Iterable[bytes]],
    steps_max: int,
) -> list[bytes]:
    """The way from one of these jobs up to `target`, both included, over the edges that are open;
    empty when there is none. ValueError after so many edges, from wherever they were come by."""
    came: dict[bytes, bytes] = dict.fromkeys(starts, b"")
    looked = list(came)
    steps = 0
    for job_id in looked:
        if job_id == target:
            way = [job_id]
            while before := came[way[-1]]:
                way.append(before)
            return way[::-1]
        for parent_id in parents.get(job_id, ()):
            steps += 1
            if steps > steps_max:
                raise ValueError("too many edges to look at")
            if parent_id not in came:
                came[parent_id] = job_id
                looked.append(parent_id)
    return []
