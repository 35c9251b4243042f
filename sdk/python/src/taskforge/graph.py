"""Graphs: jobs that start after other jobs, submitted in one request, all or none.

    graph = Graph()
    fetch = graph.add(fetch_page, url=url)
    parse = graph.add(parse_page, after=[fetch])
    graph.on_complete(report)
    handle = client.submit_graph(graph)
    handle[parse].wait()

A parent is a node of the graph, or a job that is there already: its handle or its id. What the
child does when a parent fails for good is said for all its parents by `on_failure`, or for one by a
pair:

    block        it goes on waiting, for the parent may be retried (the default)
    cancel       it is cancelled, and so on down
    run_anyway   it runs
"""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

import msgspec

from taskforge.client import calls
from taskforge.options import Parent, parent_ref
from taskforge.task import JobSpec, Payload, Task

R = TypeVar("R")

OnFailure = Literal["block", "cancel", "run_anyway"]


class Node(Generic[R]):
    """A job of a graph that is to be submitted; `R` is its result."""

    __slots__ = ("parents", "ref", "spec")

    def __init__(self, ref: str, spec: JobSpec[R], parents: list[dict[str, str]]) -> None:
        self.ref = ref
        """Its name within the graph; results of parents are found by it."""
        self.spec = spec
        self.parents = parents

    def __repr__(self) -> str:
        return f"Node({self.ref})"


After = Node[Any] | Parent
"""What a node may wait for: a node, a handle, an id, or a pair of one of these and a policy."""


class Graph:
    """Jobs and what they wait for, as they will be submitted."""

    def __init__(self) -> None:
        self.nodes: list[Node[Any]] = []
        self._refs: set[str] = set()
        self._callbacks: dict[str, tuple[JobSpec[Any], OnFailure | None]] = {}

    def add(
        self,
        task: Task[..., R] | str,
        payload: Payload = None,
        *,
        after: Iterable[After] = (),
        on_failure: OnFailure = "block",
        ref: str | None = None,
        queue: str | None = None,
        **arguments: Any,
    ) -> Node[R]:
        """A job that starts after these. Arguments as for `submit`; what else it is told goes by
        `task.configure(…)`. `ref` is its name, by default one that counts up."""
        if ref is None:
            ref = f"{task.name if isinstance(task, Task) else task}-{len(self.nodes) + 1}"
        if ref in self._refs:
            raise ValueError(f"two nodes have the name {ref!r}")
        parents = [_ref_of(parent, on_failure) for parent in after]
        node: Node[R] = Node(ref, _spec(task, payload, queue, arguments), parents)
        self._refs.add(ref)
        self.nodes.append(node)
        return node

    def on_success(
        self,
        task: Task[..., Any] | str,
        payload: Payload = None,
        *,
        queue: str | None = None,
        on_failure: OnFailure = "block",
        **arguments: Any,
    ) -> None:
        """A job that runs once all jobs of the graph have succeeded."""
        self._callbacks["on_success"] = (_spec(task, payload, queue, arguments), on_failure)

    def on_complete(
        self,
        task: Task[..., Any] | str,
        payload: Payload = None,
        *,
        queue: str | None = None,
        **arguments: Any,
    ) -> None:
        """A job that runs once all jobs of the graph have ended, however they did."""
        self._callbacks["on_complete"] = (_spec(task, payload, queue, arguments), None)

    @property
    def callbacks(self) -> Mapping[str, JobSpec[Any]]:
        """The jobs for the end, by when they run."""
        return {name: spec for name, (spec, _) in self._callbacks.items()}

    def body(self) -> dict[str, Any]:
        """The request."""
        body: dict[str, Any] = {
            "jobs": [
                _fields(node.spec)
                | {"ref": node.ref}
                | ({"parents": node.parents} if node.parents else {})
                for node in self.nodes
            ]
        }
        for name, (spec, on_failure) in self._callbacks.items():
            body[name] = _fields(spec) | ({"on_failure": on_failure} if on_failure else {})
        return body


def _spec(
    task: Task[..., R] | str, payload: Payload, queue: str | None, arguments: dict[str, Any]
) -> JobSpec[R]:
    if arguments and payload is not None:
        raise TypeError("give the arguments either as payload or by name")
    return JobSpec(task, arguments if payload is None else payload, queue=queue)


def _fields(spec: JobSpec[Any]) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(calls.item(spec), builtin_types=(bytes,))
    return fields | {"queue": calls.queue_of(spec)}


def _ref_of(parent: After, on_failure: str) -> dict[str, str]:
    if isinstance(parent, tuple):
        parent, on_failure = parent
    if isinstance(parent, Node):
        return {"ref": parent.ref, "on_failure": on_failure}
    return {"on_failure": on_failure} | parent_ref(parent)
