"""What happens to jobs, told to those who follow: one hub for a node.

    log row durable ──► Shard.listener ──► ext.followed: events of what is followed ──┐
    word of progress of a handler that holds its lease ───────────────────────────────┤
                                                                                      ▼
        topic (a job, a queue, a project): ring of events, numbered ──► followers, each at its place

Nobody is told of what is not durable, and events of one job come in the order of its log. While
nobody follows anything of a shard, its listener is None and a batch costs one look at that. A
follower is a place in its topic's ring: one that is slow, or comes back later, finds out how many
events the ring has let go of meanwhile. Nothing here waits for a follower.

Events of a job that is followed by itself are always told. Those of queues and projects have a
budget, shared by what is followed: beyond it they are counted as missed, so that a follower of a
busy project costs the engine a bounded part of its time.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from taskforge_server.engine import limits
from taskforge_server.engine.actors.progress import Running
from taskforge_server.engine.model.events import JobEvent, Missed, Told
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.shard.shared import SharedBound
from taskforge_server.ext.followed import followed
from taskforge_server.ext.ids import shard_of
from taskforge_server.ext.table import NEVER_US

TAG_BYTES = 4
NUMBER_CHARS_MAX = 18


class Topic:
    """The events of one job, queue or project, numbered from 0; the newest are kept."""

    __slots__ = ("_first", "_ring", "followers", "key", "next_number", "tag", "tenant")

    def __init__(self, key: bytes, tenant: bytes) -> None:
        self.key = key
        self.tenant = tenant
        self.tag = secrets.token_hex(TAG_BYTES)
        self.followers: set[Follower] = set()
        self.next_number = 0
        self._ring: deque[tuple[int, JobEvent | Missed]] = deque()
        # How many entries the ring has let go of.
        self._first = 0

    def add(self, event: JobEvent | Missed, room: int) -> None:
        self._ring.append((self.next_number, event))
        self.next_number += 1
        while len(self._ring) > room:
            self._ring.popleft()
            self._first += 1

    def skip(self, count: int) -> None:
        """So many events happened that are not told."""
        self.next_number += count

    def wake(self) -> None:
        for follower in self.followers:
            follower.news.set()

    def place_of(self, number: int) -> int | None:
        """Where what follows the event of this number stands; None: it is not of this topic."""
        if number >= self.next_number:
            return None
        newer = itertools.takewhile(lambda entry: entry[0] > number, reversed(self._ring))
        return self.end - sum(1 for _ in newer)

    def read(self, place: int, number: int, most: int) -> tuple[list[Told], int, int]:
        """Entries from this place on, of which `number` is to be the first, with their ids; and the
        place and number that come next."""
        place = max(place, self._first)
        start = place - self._first
        found: list[Told] = []
        for known, event in itertools.islice(self._ring, start, start + most):
            if known > number:
                found.append((self._id(known - 1), Missed(known - number)))
            found.append((self._id(known), event))
            place, number = place + 1, known + 1
        if place == self._first + len(self._ring) and number < self.next_number:
            found.append((self._id(self.next_number - 1), Missed(self.next_number - number)))
            number = self.next_number
        return found, place, number

    @property
    def end(self) -> int:
        """The place behind the newest entry."""
        return self._first + len(self._ring)

    def _id(self, number: int) -> str:
        return f"{self.tag}-{number}"


class Follower:
    """A reader at its place in a topic; `close` it."""

    def __init__(
        self, topic: Topic, after: str | None, close: Callable[["Follower"], None]
    ) -> None:
        self.news = asyncio.Event()
        self.topic = topic
        self.resumed = False
        """It goes on behind the event that it named."""
        self._close = close
        self._place, self._number = topic.end, topic.next_number
        self._unknown = False
        if after is not None:
            tag, _, text = after.partition("-")
            known = tag == topic.tag and text.isdecimal() and len(text) <= NUMBER_CHARS_MAX
            place = topic.place_of(int(text)) if known else None
            if place is None:
                self._unknown = True
            else:
                self._place, self._number, self.resumed = place, int(text) + 1, True

    async def take(self) -> list[Told]:
        """The next events with their ids, when there are some."""
        while True:
            found = self.take_nowait()
            if found:
                return found
            self.news.clear()
            await self.news.wait()

    def take_nowait(self) -> list[Told]:
        """Those that are there."""
        if self._unknown:
            self._unknown = False
            return [("", Missed(None))]
        found, self._place, self._number = self.topic.read(
            self._place, self._number, limits.EVENTS_READ_MAX
        )
        return found

    def close(self) -> None:
        self._close(self)


class EventHub:
    """All topics of a node."""

    def __init__(
        self,
        shards: Mapping[int, Shard],
        refs: Mapping[bytes, QueueRef],
        monotonic_us: Callable[[], int],
    ) -> None:
        self._shards = shards
        self._refs = refs
        self._monotonic_us = monotonic_us
        self._jobs: dict[bytes, Topic] = {}
        self._job_row = b""
        # Of queues and projects: their ids differ, so one book has both.
        self._others: dict[bytes, Topic] = {}
        self._rooms: dict[bytes, int] = {}
        self._filled_us = 0
        self._bound = SharedBound("followed jobs, queues and projects", limits.EVENT_TOPICS_MAX)

    def __len__(self) -> int:
        return len(self._jobs) + len(self._others)

    # followers

    def follow_job(self, job_id: bytes, tenant: bytes, after: str | None = None) -> Follower:
        """ShareUsedUp: the tenant follows too much."""
        return self._follow(self._jobs, job_id, tenant, after)

    def follow(self, id: bytes, tenant: bytes, after: str | None = None) -> Follower:
        """Of a queue or a project, by its id. ShareUsedUp."""
        return self._follow(self._others, id, tenant, after)

    def _follow(
        self, topics: dict[bytes, Topic], key: bytes, tenant: bytes, after: str | None
    ) -> Follower:
        topic = topics.get(key)
        if topic is None:
            if self._bound.room(tenant) < 1:
                self._forget_idle(tenant)
            self._bound.require(tenant)
            topic = topics[key] = Topic(key, tenant)
            self._bound.add(tenant)
            self._changed()
        follower = Follower(topic, after, self._left)
        topic.followers.add(follower)
        return follower

    def _left(self, follower: Follower) -> None:
        topic = follower.topic
        topic.followers.discard(follower)
        if not topic.followers:
            # Whoever was cut off may come back and go on.
            loop = asyncio.get_running_loop()
            loop.call_later(limits.EVENT_LINGER_S, self._forget, topic)

    def _forget(self, topic: Topic) -> None:
        if topic.followers:
            return
        for topics in (self._jobs, self._others):
            if topics.get(topic.key) is topic:
                del topics[topic.key]
                self._bound.remove(topic.tenant)
                self._changed()

    def _forget_idle(self, tenant: bytes) -> None:
        """Make room: topics of the tenant that only wait for somebody to come back."""
        for topic in [*self._jobs.values(), *self._others.values()]:
            if topic.tenant == tenant:
                self._forget(topic)

    def _changed(self) -> None:
        """Something is followed now, or no longer."""
        self._job_row = b"".join(sorted(self._jobs))
        fresh = limits.EVENTS_BURST_MAX
        self._rooms = {key: self._rooms.get(key, fresh) for key in self._others}
        for shard in self._shards.values():
            self.adopted(shard)

    # shards

    def adopted(self, shard: Shard) -> None:
        """Listen to the shard, if something of it is followed."""
        wanted = bool(self._others) or any(shard_of(job) == shard.number for job in self._jobs)
        shard.listener = self._heard if wanted else None

    def lost(self, shard: Shard) -> None:
        """What happens in the shard until it is back is told by nobody here."""
        for topic in self._of(shard):
            topic.add(Missed(None), self._room())
            topic.wake()

    def _of(self, shard: Shard) -> list[Topic]:
        """The topics that the shard may say something about."""
        found = [topic for key, topic in self._jobs.items() if shard_of(key) == shard.number]
        for key, topic in self._others.items():
            ref = self._refs.get(key)
            if ref is None or ref.shard == shard.number:
                found.append(topic)
        return found

    # events

    def _heard(self, shard: Shard, lsn: int, body: bytes) -> None:
        """A log row is durable just now."""
        self._fill()
        base_us, told, over = followed(shard.table, body, self._rooms, self._job_row)
        room = self._room()
        touched: dict[Topic, None] = {}
        for queue_id, job_type, fields in told:
            event = job_event(queue_id, job_type, fields, base_us, lsn)
            if event is None:
                continue
            for topic in self._topics(event):
                topic.add(event, room)
                touched[topic] = None
        for queue_id, count in over.items():
            for topic in self._topics_of(queue_id):
                topic.skip(count)
                touched[topic] = None
        for topic in touched:
            topic.wake()

    def progress(self, running: Running) -> None:
        """The handler of a job has said how far it is."""
        if not self._jobs and not self._others:
            return
        self._fill()
        event = JobEvent(
            "progress",
            running.job_id,
            running.queue_id,
            running.job_type,
            "processing",
            running.progress.at_us,
            attempt=running.attempt,
            progress=running.progress,
        )
        room = self._room()
        if (topic := self._jobs.get(running.job_id)) is not None:
            topic.add(event, room)
            topic.wake()
        for topic in self._topics_of(running.queue_id):
            if self._rooms[topic.key] > 0:
                self._rooms[topic.key] -= 1
                topic.add(event, room)
            else:
                topic.skip(1)
            topic.wake()

    def _topics(self, event: JobEvent) -> list[Topic]:
        """Those that the event belongs to; what it takes of their budget is taken."""
        found = self._topics_of(event.queue_id)
        for topic in found:
            self._rooms[topic.key] -= 1
        own = self._jobs.get(event.job_id)
        return found if own is None else [*found, own]

    def _topics_of(self, queue_id: bytes) -> list[Topic]:
        """The queue and its project, if they are followed."""
        others = self._others
        ref = self._refs.get(queue_id)
        keys = (queue_id,) if ref is None else (queue_id, ref.project_id)
        return [others[key] for key in keys if key in others]

    def _fill(self) -> None:
        """Give what is followed its share of the time that went by."""
        now_us = self._monotonic_us()
        waited_s = (now_us - self._filled_us) / 1e6
        if waited_s < limits.EVENTS_FILL_S:
            return
        self._filled_us = now_us
        share = round(min(1.0, waited_s) * limits.EVENTS_PER_S_MAX / max(1, len(self._rooms)))
        for key, left in self._rooms.items():
            self._rooms[key] = min(limits.EVENTS_BURST_MAX, left + max(1, share))

    def _room(self) -> int:
        """How many events a topic keeps."""
        return min(limits.EVENTS_KEPT_EACH_MAX, limits.EVENTS_KEPT_MAX // max(1, len(self)))


SUBMITTED, STARTED, RETRIED, FAILED = 1, 2, 4, 5
CANCELLED, RETURNED, CHANGED, STOPPED = 7, 11, 12, 13

# code of an event in the log -> (name, status after it, where its time stands)
KINDS: Final[dict[int, tuple[str, str, int]]] = {
    SUBMITTED: ("submitted", "pending", 5),
    STARTED: ("started", "processing", 4),
    3: ("succeeded", "succeeded", 2),
    RETRIED: ("retried", "scheduled", 2),
    FAILED: ("failed", "failed", 2),
    6: ("released", "pending", 2),
    CANCELLED: ("cancelled", "cancelled", 2),
    8: ("requeued", "pending", 5),
    RETURNED: ("returned", "pending", 2),
    CHANGED: ("changed", "", 2),
    STOPPED: ("cancelled", "cancelled", 2),
}

# code -> where the time stands until which the job waits, and its reason
DUE_AT: Final = {SUBMITTED: 6, RETRIED: 3, RETURNED: 4, CHANGED: 3}
REASON_AT: Final = {FAILED: 3, CANCELLED: 3, STOPPED: 3}


def job_event(
    queue_id: bytes, job_type: str, fields: list[Any], base_us: int, lsn: int
) -> JobEvent | None:
    """An event of the log as followers get it; None for one that says nothing to them."""
    code = fields[0]
    known = KINDS.get(code)
    if known is None:
        return None
    kind, status, place = known
    at_us = base_us + fields[place]
    due_us = _field(fields, DUE_AT.get(code), -1)
    if due_us > at_us:
        status = "scheduled"
    elif code == CHANGED and due_us >= 0:
        status = "pending"
    return JobEvent(
        kind,
        fields[1],
        queue_id,
        job_type,
        status,
        at_us,
        lsn,
        attempt=fields[3] if code == STARTED else 0,
        due_us=due_us if at_us < due_us < NEVER_US else 0,
        reason=_field(fields, REASON_AT.get(code), None),
    )


def _field(fields: list[Any], place: int | None, absent: Any) -> Any:
    """What stands at this place; events may leave out their last fields."""
    return fields[place] if place is not None and place < len(fields) else absent
