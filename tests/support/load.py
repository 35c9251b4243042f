"""Clients that submit under fire, and write down what they were told.

Each call is written before it is sent. One that gets no clear answer is `unknown`: it may have
happened. With a key it is repeated until there is an answer; without one it is sent once.
"""

import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskforge import Client
from taskforge.client import calls
from taskforge.errors import ConnectionFailed, Overloaded, ServerError
from taskforge.task import JobSpec
from tests.support.historyfile import HistoryFile

LATER = "later"
LATER_S = 0.1
TASKS = ("quick", "quick", "quick", "answer", "flaky", "slow", "thread", "doomed", LATER)
"""Tasks of `crash_handlers`, and `later`, which is a quick one with a delay."""
BATCH_MAX = 20
ANSWER_S = 8.0
PAUSE_S = 0.15
REPEAT_PAUSE_S = 0.05
REPEATED_SHARE = 0.1
NO_ANSWER = (ConnectionFailed, Overloaded, ServerError)


def spec(task: str, payload: Mapping[str, object], queue: str) -> JobSpec[object]:
    """A job of one of TASKS."""
    if task == LATER:
        return JobSpec("quick", payload, queue=queue, delay_s=LATER_S)
    return JobSpec(task, payload, queue=queue)


class Submitter:
    """One client; `submit` is a call, repeated as its key allows."""

    def __init__(
        self, name: str, url: str, api_key: str, folder: Path, answer_s: float = ANSWER_S
    ) -> None:
        self.name = name
        self.history = HistoryFile(folder / f"client-{name}.jsonl")
        self.client = Client(url, api_key, retries=0, timeout_s=answer_s)
        self.given_up = threading.Event()
        """Stop repeating."""
        self.acknowledged = 0
        self._calls = 0

    def mark(self, task: str, place: int) -> str:
        """Unique in the run; says which task, and so how the job must end."""
        return f"{task}-{self.name}-{self._calls}-{place}"

    def submit(
        self, queue: str, tasks: Sequence[str], keyed: bool = True, gate: str | None = None
    ) -> list[str] | None:
        """One call with a job for each task: the ids, or nothing when there was no answer."""
        self._calls += 1
        call = f"{self.name}-{self._calls}"
        marks = [self.mark(task, place) for place, task in enumerate(tasks)]
        more = {} if gate is None else {"gate": gate}
        specs = [
            spec(task, {"mark": mark, **more}, queue)
            for task, mark in zip(tasks, marks, strict=True)
        ]
        key = f"key-{call}" if keyed else None
        self.history.say("call", call=call, marks=marks, key=key)
        while (ids := self._try(call, specs, key)) is None and keyed:
            if self.given_up.wait(REPEAT_PAUSE_S):
                break
        return ids

    def again(self, call_number: int, queue: str, tasks: Sequence[str]) -> None:
        """Repeat a keyed call that was answered: the answer must be the same."""
        self._calls, newest = call_number, self._calls
        marks = [self.mark(task, place) for place, task in enumerate(tasks)]
        self._calls = newest
        call = f"{self.name}-{call_number}"
        specs = [spec(task, {"mark": mark}, queue) for task, mark in zip(tasks, marks, strict=True)]
        self._try(call, specs, f"key-{call}")

    @property
    def newest(self) -> int:
        """The number of the newest call."""
        return self._calls

    def _try(
        self, call: str, specs: Sequence[JobSpec[object]], key: str | None
    ) -> list[str] | None:
        try:
            ids = self._send(specs, key)
        except NO_ANSWER as error:
            self.history.say("unknown", call=call, why=str(error))
            return None
        self.history.say("acked", call=call, ids=ids)
        self.acknowledged += len(ids)
        return ids

    def _send(self, specs: Sequence[JobSpec[object]], key: str | None) -> list[str]:
        if len(specs) == 1:
            return [self.client.execute(calls.submit(specs[0], key)).id]
        found: dict[int, str] = {}
        for queue, places, items in calls.batches(list(specs)):
            reply = self.client.execute(calls.batch(queue, items, key))
            for place, result in calls.batch_results(reply, places):
                assert isinstance(result, str), f"refused: {result}"
                found[place] = result
        return [found[place] for place in range(len(specs))]

    def close(self) -> None:
        self.client.close()
        self.history.close()


class Load:
    """Several submitters in threads of their own, until `stop`."""

    def __init__(
        self, url: str, api_key: str, queues: Sequence[str], folder: Path, seed: int, clients: int
    ) -> None:
        self._queues = queues
        self._seed = seed
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._submitters = [
            Submitter(f"c{number}", url, api_key, folder) for number in range(clients)
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(submitter, seed + number), daemon=True)
            for number, submitter in enumerate(self._submitters)
        ]

    @property
    def acknowledged(self) -> int:
        """Jobs so far; wakes nobody, to be looked at."""
        if self._failures:
            raise AssertionError("a client failed") from self._failures[0]
        return sum(submitter.acknowledged for submitter in self._submitters)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def abandon(self) -> None:
        """Something went wrong: do not wait for answers."""
        self._stopping.set()
        for submitter in self._submitters:
            submitter.given_up.set()

    def stop(self) -> None:
        """Finish the calls under way; the node must be there, or they stay unknown."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_S)
        for submitter in self._submitters:
            submitter.given_up.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_S)
        for submitter in self._submitters:
            submitter.close()
        assert self.acknowledged

    def _run(self, submitter: Submitter, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not self._stopping.wait(PAUSE_S * chance.random()):
                queue = chance.choice(self._queues)
                count = 1 if chance.random() < 0.6 else chance.randint(2, BATCH_MAX)
                tasks = [chance.choice(TASKS) for _ in range(count)]
                keyed = chance.random() < 0.5
                ids = submitter.submit(queue, tasks, keyed)
                if keyed and ids and chance.random() < REPEATED_SHARE:
                    submitter.again(submitter.newest, queue, tasks)
        except BaseException as error:  # noqa: BLE001 - shown by whoever looks at the load
            self._failures.append(error)
