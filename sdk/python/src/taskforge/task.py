"""Tasks: functions that run as jobs.

`@task` gives a function a name that jobs carry (`job_type`), and the options that its jobs get
when they are submitted through a client of this SDK. The function itself stays as it was: calling
a task calls it. A task is compiled (`binding`) when a worker takes it up, not before, so that type
hints may name what is defined further down.
"""

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

import msgspec

from taskforge.binding import Binding
from taskforge.context import Context
from taskforge.options import JobOptions, ScheduleOptions, TaskOptions, known_options

P = ParamSpec("P")
R = TypeVar("R")

JOB_TYPE_CHARS_MAX = 255
PRIORITY_MAX = 9

Payload = Mapping[str, Any] | msgspec.Struct | bytes | None
"""Arguments by name, a struct of them, or JSON text as bytes."""


class Task(Generic[P, R]):
    """A function with a name for jobs and their default options; `R` is its result."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        timeout_s: float | None = None,
        max_attempts: int | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        self.function = function
        self.name = name if name is not None else getattr(function, "__name__", "")
        if not 0 < len(self.name) <= JOB_TYPE_CHARS_MAX:
            raise ValueError(f"a task's name has 1 to {JOB_TYPE_CHARS_MAX} characters")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"task {self.name}: a generator cannot be a task")
        if isinstance(priority, bool) or not 0 <= priority <= PRIORITY_MAX:
            raise ValueError(f"task {self.name}: priority is 0 to {PRIORITY_MAX}, not {priority}")
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"task {self.name}: timeout_s is more than 0")
        if max_attempts is not None and max_attempts < 1:
            raise ValueError(f"task {self.name}: max_attempts is at least 1")
        self.queue = queue
        self.priority = priority
        self.timeout_s = timeout_s
        self.max_attempts = max_attempts
        self.schedule, self.options = _split(options)
        self.is_async = _is_async(function)
        functools.update_wrapper(self, function, updated=())
        if self.schedule is not None:
            self._check_schedule(self.schedule)

    def _check_schedule(self, schedule: ScheduleOptions) -> None:
        if "cron" not in schedule:
            raise TypeError(f"task {self.name}: {', '.join(schedule)} goes with cron")
        if required := self._names[1]:
            needed = ", ".join(sorted(required))
            raise TypeError(f"task {self.name}: with cron it is called without {needed}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function here and now, without a job; an async one returns its coroutine."""
        return self.function(*args, **kwargs)

    def configure(self, **options: Unpack[JobOptions]) -> Self:
        """The same task for jobs with these options: `submit(greet.configure(group_key="ada"))`."""
        configured = copy.copy(self)
        configured.options = self.options | known_options(options)
        return configured

    def job(self, **arguments: Any) -> "JobSpec[R]":
        """A job of this task with these arguments, for `submit_many`."""
        return JobSpec(self, arguments)

    @functools.cached_property
    def binding(self) -> Binding:
        """The compiled signature. A sync function is bound to its arguments but not yet called."""
        target = (
            self.function if self.is_async else functools.partial(functools.partial, self.function)
        )
        return Binding(self.function, self.name, target)

    @functools.cached_property
    def result_type(self) -> Any:
        """The annotated result, which clients convert to; Any where it is none that JSON gives."""
        try:
            hints = inspect.get_annotations(_plain(self.function), eval_str=True)
            found = hints.get("return", Any)
            msgspec.json.Decoder(found)
        except (NameError, TypeError):
            return Any
        return found

    @functools.cached_property
    def _names(self) -> tuple[frozenset[str], frozenset[str], bool]:
        """Parameters that a payload may name, those that it must, and whether any other may be."""
        allowed, required, rest = [], [], False
        for item in inspect.signature(self.function).parameters.values():
            if item.annotation is Context or item.annotation in ("Context", "taskforge.Context"):
                continue
            if item.kind is item.VAR_KEYWORD:
                rest = True
            else:
                allowed.append(item.name)
                if item.default is item.empty:
                    required.append(item.name)
        return frozenset(allowed), frozenset(required), rest

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raise TypeError when names are unknown or missing, before anything is sent."""
        allowed, required, rest = self._names
        given = arguments.keys()
        if not rest and not given <= allowed:
            unknown = ", ".join(sorted(given - allowed))
            raise TypeError(f"task {self.name} has no parameter {unknown}")
        if not required <= given:
            missing = ", ".join(sorted(required - given))
            raise TypeError(f"task {self.name} needs {missing}")

    def __repr__(self) -> str:
        return f"<task {self.name} on queue {self.queue}>"


class _Work(msgspec.Struct, Generic[R], frozen=True):
    task: Task[..., R] | str
    payload: Payload = None


class JobSpec(_Work[R], Generic[R], frozen=True, kw_only=True):
    """A job to be: what `submit` takes as arguments, as a value. None: the task's or the queue's.

    `delay_s` and `scheduled_for` exclude each other. `queue` must be given for a job type that is
    only a name.
    """

    queue: str | None = None
    priority: int | None = None
    delay_s: float | None = None
    scheduled_for: datetime | None = None
    timeout_s: float | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None
    options: JobOptions | None = None


@overload
def task(function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    queue: str = "default",
    priority: int = 0,
    timeout_s: float | None = None,
    max_attempts: int | None = None,
    **options: Unpack[TaskOptions],
) -> "_Decorator": ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str = "default",
    priority: int = 0,
    timeout_s: float | None = None,
    max_attempts: int | None = None,
    **options: Unpack[TaskOptions],
) -> Any:
    """Make a function a task: `@task` or `@task(queue="mail", timeout_s=30)`.

    The function may be sync (it runs in a thread) or async. Its parameters come from the payload by
    name, converted to their type hints; a parameter annotated `Context` gets the job's context.
    The options hold for jobs that are submitted through this SDK; `submit` may override those that
    it has, `Task.configure` the others. With `cron="0 3 * * *"` it has jobs by itself.
    """
    decorate = _Decorator(
        name=name,
        queue=queue,
        priority=priority,
        timeout_s=timeout_s,
        max_attempts=max_attempts,
        **options,
    )
    return decorate if function is None else decorate(function)


class _Decorator:
    """`@task(…)` with its options, waiting for the function."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        return Task(function, **self.options)


def _split(options: TaskOptions) -> tuple[ScheduleOptions | None, JobOptions]:
    """When it has jobs by itself, and what all of its jobs are told; TypeError for other names."""
    given: Any = options
    when: Any = {name: given[name] for name in ScheduleOptions.__annotations__ if name in given}
    rest: Any = {name: value for name, value in given.items() if name not in when}
    return when or None, known_options(rest)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations count: below partials, or a callable object's method."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return type(function).__call__


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(_plain(function))
