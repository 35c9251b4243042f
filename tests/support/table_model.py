"""What the machine of the shard table draws, and the model that it holds the tables against."""

from dataclasses import dataclass, field
from typing import Any

import msgpack
from hypothesis import strategies as st

from taskforge_server.ext.pure.tablelog import NEVER_US

EPOCH_US = 1_700_000_000_000_000
FOREVER_US = 2**62
PROJECT = b"p" * 16
TYPES = ["mail", "resize", "bericht-ü"]
HISTORY_NONE, HISTORY_FAILED, HISTORY_ALL = 0, 1, 2
FINAL = {"succeeded", "failed", "cancelled"}

queues = st.integers(0, 3)
workers = st.integers(0, 1)
# Time mostly goes on; the database's clock may also be read a little earlier than before.
steps_us = st.one_of(st.just(0), st.integers(1, 5_000_000), st.integers(-2_000, -1))
delays_us = st.one_of(st.just(0), st.integers(1, 10_000_000))
types_taken = st.one_of(st.none(), st.none(), st.frozensets(st.sampled_from([*TYPES, "unknown"])))
json_texts = st.sampled_from([b"null", b"{}", b'{"n":1}', b'"' + b"x" * 300 + b'"', '"ü"'.encode()])
errors = st.sampled_from([b"{}", b'{"type":"ValueError","message":"no"}'])
reasons = st.sampled_from(["error", "timeout", "quarantined"])
picks = st.integers(0, 10_000)
few = st.integers(0, 4)
ages_us = st.sampled_from([0, 3_000_000, 1_000_000_000])


@st.composite
def options(draw: st.DrawFn) -> bytes | None:
    """In the order in which the table gives them back."""
    chosen: dict[str, Any] = {
        name: draw(st.text("abü", min_size=1, max_size=3))
        for name in ("idempotency_key", "unique_key", "group_key")
        if draw(st.booleans())
    }
    tags = draw(st.lists(st.sampled_from(["red", "blå", ""]), max_size=3))
    if tags:
        chosen["tags"] = tags
    if draw(st.booleans()):
        chosen["waiting_on"] = draw(st.integers(0, 2**31 - 1))
    if draw(st.booleans()):
        chosen["more"] = draw(
            st.sampled_from([b"{}", b'{"a": 1}', b'{"long":"' + b"x" * 300 + b'"}'])
        )
    if draw(st.booleans()):
        chosen["keep"] = True
    return msgpack.packb(chosen) if chosen else None


@st.composite
def new_jobs(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "job_type": draw(st.sampled_from(TYPES)),
        "payload": draw(json_texts),
        "priority": draw(st.integers(0, 9)),
        "due_us": draw(st.one_of(delays_us, delays_us, st.just(NEVER_US))),
        "timeout_ms": draw(st.sampled_from([0, 0, 1, 2_500])),
        "max_attempts": draw(st.sampled_from([0, 3, 32767])),
        "options": draw(options()),
    }


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Some of what a job can be told; times count from the change."""
    every = {
        "due_us": st.one_of(st.integers(-2_000_000, 10_000_000), st.just(NEVER_US)),
        "priority": st.integers(0, 9),
        "payload": json_texts,
        "options": st.one_of(options().filter(bool), st.just(b"")),
        "deadline_us": st.one_of(st.just(0), st.integers(1, 10_000_000)),
    }
    names = draw(st.sets(st.sampled_from([*every]), max_size=3))
    return {name: draw(every[name]) for name in every if name in names}


@dataclass
class ModelJob:
    queue: int
    job_type: str
    priority: int
    status: str
    due_us: int = 0
    token: bytes = b""


@dataclass
class Model:
    """States, leases and order, told by scanning lists."""

    jobs: dict[bytes, ModelJob] = field(default_factory=dict)

    def start(
        self,
        queue: int,
        types: frozenset[str] | None,
        most: int,
        lease: bytes = b"",
        here: set[bytes] | None = None,
    ) -> list[bytes]:
        """The ids to start: always the greatest priority, then the earliest submitted; only of
        those that are `here`, if it is given.

        Ids ascend in the order of submission; that is checked where they are given. A job that has
        had this lease already ends the row.
        """
        ready = {
            job_id: job
            for job_id, job in self.jobs.items()
            if job.queue == queue
            and job.status == "pending"
            and (types is None or job.job_type in types)
            and (here is None or job_id in here)
        }
        started: list[bytes] = []
        while ready and len(started) < most:
            best = next(iter(ready))
            for job_id, job in ready.items():
                greater = job.priority > ready[best].priority
                earlier = job_id < best
                if greater or (job.priority == ready[best].priority and earlier):
                    best = job_id
            if lease and ready[best].token == best + lease:
                break
            del ready[best]
            started.append(best)
        return started

    def leased(self, token: bytes) -> ModelJob | None:
        job = self.jobs.get(token[:16])
        return job if job and job.status == "processing" and job.token == token else None

    def due(self, now_us: int, here: set[bytes]) -> list[int]:
        jobs = [job for job_id, job in self.jobs.items() if job_id in here]
        due = [job for job in jobs if job.status == "scheduled" and job.due_us <= now_us]
        for job in due:
            job.status = "pending"
        return sorted({job.queue for job in due})


@dataclass(frozen=True)
class Call:
    """A method of the machine with its arguments."""

    name: str
    args: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={arg!r}' for name, arg in self.args.items())})"


def call(weight: int, name: str, **args: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Call]]:
    return [st.builds(Call, st.just(name), st.fixed_dictionaries(args))] * weight


def weighted(*calls: st.SearchStrategy[Call]) -> st.SearchStrategy[Call]:
    """One of these; those that stand there twice come twice as often. Not `one_of`, which takes
    them for one."""
    return st.sampled_from(calls).flatmap(lambda chosen: chosen)


# One rule with weights instead of a rule a command: hypothesis leaves some rules out of each run,
# but a projection needs most of these in one run.
calls = weighted(
    *call(6, "submit", queue=queues, jobs=st.lists(new_jobs(), max_size=6), step_us=steps_us),
    *call(
        10,
        "start",
        queue=queues,
        types=types_taken,
        worker=workers,
        most=st.sampled_from([8, 3, 1, 0]),
        step_us=steps_us,
    ),
    *call(4, "succeed", chosen=st.lists(picks, max_size=4), step_us=steps_us),
    *call(3, "succeed_with", pick=picks, result=st.none() | json_texts, step_us=steps_us),
    *call(4, "retried", pick=picks, delay_us=delays_us, error=errors, step_us=steps_us),
    *call(4, "failed", pick=picks, reason=reasons, error=errors, step_us=steps_us),
    *call(3, "released", pick=picks, error=errors, step_us=steps_us),
    *call(3, "returned", pick=picks, error=errors, delay_us=delays_us, step_us=steps_us),
    *call(3, "stopped", pick=picks, error=errors, step_us=steps_us),
    *call(5, "change", pick=picks, told=changes(), step_us=steps_us),
    *call(1, "take_marked"),
    *call(2, "cancelled", pick=picks, step_us=steps_us),
    *call(3, "requeue", pick=picks, step_us=steps_us),
    *call(1, "keyed", key=st.sampled_from(["a", "b"]), pick=picks, step_us=steps_us),
    *call(1, "owned", epoch=st.integers(1, 300), step_us=steps_us),
    *call(3, "due", step_us=steps_us, parts=st.booleans()),
    *call(1, "watch", pick=picks, on=st.booleans()),
    *call(1, "change_queue", history=st.integers(0, 2)),
    *call(3, "ask", queue=queues, types=types_taken, worker=workers, pick=picks, step_us=steps_us),
    *call(3, "take_batch"),
    *call(7, "committed", behind=st.integers(0, 1), take=st.booleans()),
    *call(7, "collect", rows_max=st.sampled_from([1, 3, 1000]), age_us=ages_us),
    *call(6, "projected", whole=st.booleans()),
    *call(4, "write", age_us=ages_us),
    *call(1, "fold_of_the_log_is_the_live_state"),
    *call(1, "recovery_finds_the_live_state", applied=st.integers(0, 2), file=st.booleans()),
    *call(
        3,
        "crash",
        lost=st.integers(0, 2),
        applied=st.integers(0, 2),
        half=st.booleans(),
        first=st.none() | few,
    ),
    *call(
        10,
        "release",
        pick=picks,
        keep=st.sampled_from([0, 0, 1, 3]),
        most=st.sampled_from([99, 1]),
        written=st.booleans(),
    ),
    *call(2, "release_scheduled", after_us=delays_us),
    *call(4, "begin_reading", pick=picks, ahead=st.booleans()),
    *call(
        5,
        "end_reading",
        rows_max=st.integers(1, 4),
        cut=st.booleans(),
        leave=st.sampled_from([99, 1]),
    ),
    *call(2, "read_due", rows_max=few),
    *call(2, "bring", pick=picks),
)


def after(delay_us: int, now_us: int) -> int:
    """A time so far from now; none stays none, and never stays never."""
    return delay_us if delay_us in (0, NEVER_US) else now_us + delay_us


def is_marked(job: dict[str, Any]) -> bool:
    """Whether the books of the shard hear of it."""
    told = msgpack.unpackb(job["options"]) if job["options"] else {}
    return "more" in told and job["status"] not in FINAL


def choose(among: list[bytes], pick: int, otherwise: bytes) -> bytes:
    return among[pick % len(among)] if among else otherwise
