"""Whose turn it is: first among projects, by weight; then among a project's queues, by priority.

    projects   start-time fair queueing: a project's tag is the work that it was given by its
               weight; the smallest tag goes first. Whoever comes back after a pause starts where
               the others stand: what was not asked for is not owed.
    queues     the highest priority first, those of one priority in turn; but a queue that got
               nothing for STARVATION_S goes before them, every other time at most, for a small
               part of the credit

        idle --put--> waiting --pick--> (served) --put--> waiting
                                           '-----------> idle

Nobody waits for somebody who takes nothing: only those who wait are looked at, so the order is work
conserving. A pick costs the logarithm of those who wait. Invariant: a project is in the heap as
long as one of its queues waits.
"""

from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

from taskforge_server.engine import limits

PRIORITIES = limits.PRIORITY_MAX + 1


class Waiting(Protocol):
    """A queue that takes part; both numbers are the turns' own."""

    priority: int
    since_us: int
    """When it got something last, or began to wait; 0: it does not wait."""
    ticket: int


W = TypeVar("W", bound=Waiting)


class Project(Generic[W]):
    """One project's waiting queues, and what it was given."""

    __slots__ = ("_late_before", "_waiting", "heaped", "tag", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.tag = 0.0
        self.heaped = False
        self._waiting: list[list[tuple[int, int, W]]] = [[] for _ in range(PRIORITIES)]
        self._late_before = False

    def put(self, queue: W) -> None:
        heappush(self._waiting[queue.priority], (queue.since_us, queue.ticket, queue))

    def pick(self, now_us: int) -> tuple[W, bool] | None:
        """The queue whose turn it is, and whether it is served out of turn; None: none waits."""
        first: list[tuple[int, int, W]] | None = None
        late: list[tuple[int, int, W]] | None = None
        for waiting in reversed(self._waiting):
            # Whoever was taken away, or put anew in another place, left its old entry behind.
            while waiting and waiting[0][1] != waiting[0][2].ticket:
                heappop(waiting)
            if not waiting:
                continue
            if first is None:
                first = waiting
                if self._late_before:
                    break
            elif waiting[0][0] < now_us - _STARVATION_US and (
                late is None or waiting[0][0] < late[0][0]
            ):
                late = waiting
        if first is None:
            return None
        self._late_before = late is not None
        queue = heappop(late or first)[2]
        queue.ticket = 0
        return queue, late is not None

    def may_wait(self) -> bool:
        """Some queue waits, unless it was taken away."""
        return any(self._waiting)


_STARVATION_US = round(limits.STARVATION_S * 1e6)


class Turns(Generic[W]):
    """All who wait on a node."""

    def __init__(self) -> None:
        self._projects: dict[bytes, Project[W]] = {}
        self._weights: dict[bytes, int] = {}
        self._heap: list[tuple[float, int, Project[W]]] = []
        self._tickets = 0
        # The tag of the one who was served last.
        self._level = 0.0
        self._picked: Project[W] | None = None

    def __bool__(self) -> bool:
        return bool(self._heap)

    def weigh(self, project_id: bytes, weight: int) -> None:
        """What part the project gets, in relation to others, from now on."""
        if weight == 1:
            self._weights.pop(project_id, None)
        else:
            self._weights[project_id] = weight
        if (project := self._projects.get(project_id)) is not None:
            project.weight = weight

    def weight(self, project_id: bytes) -> int:
        return self._weights.get(project_id, 1)

    def put(self, project_id: bytes, queue: W, now_us: int) -> None:
        """The queue waits for its turn."""
        project = self._projects.get(project_id)
        if project is None:
            project = self._projects[project_id] = Project(self.weight(project_id))
        self._tickets += 1
        queue.ticket = self._tickets
        queue.since_us = queue.since_us or now_us
        project.put(queue)
        if not project.heaped and project is not self._picked:
            project.tag = max(project.tag, self._level)
            self._push(project)

    def take_away(self, queue: W) -> None:
        """The queue waits no more."""
        queue.ticket = 0

    def pick(self, now_us: int) -> tuple[W, bool] | None:
        """The next one, and whether it is served out of turn. Say then what it was `given`."""
        while self._heap:
            _, _, project = heappop(self._heap)
            project.heaped = False
            picked = project.pick(now_us)
            if picked is not None:
                self._level = max(self._level, project.tag)
                self._picked = project
                return picked
        return None

    def given(self, jobs: int) -> None:
        """So many jobs went to the one that was picked last, which may have been put again."""
        project, self._picked = self._picked, None
        assert project is not None
        assert not project.heaped
        project.tag += jobs / project.weight
        if project.may_wait():
            self._push(project)

    def _push(self, project: Project[W]) -> None:
        self._tickets += 1
        heappush(self._heap, (project.tag, self._tickets, project))
        project.heaped = True
