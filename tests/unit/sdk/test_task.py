"""What `@task` makes of a function, and which options it refuses."""

from typing import Any

import msgspec
import pytest

from taskforge import Context, JobSpec, task
from taskforge.client import calls


@task
async def greet(name: str, ctx: Context, loud: bool = False) -> str:
    """Greets."""
    return f"Hello {name}"


def test_a_task_has_the_name_of_its_function() -> None:
    assert (greet.name, greet.queue, greet.priority) == ("greet", "default", 0)
    assert greet.__doc__ == "Greets."
    assert greet.is_async
    assert greet.result_type is str


def test_options() -> None:
    @task(name="mail.send", queue="mail", priority=7, timeout_s=3.0, max_attempts=2)
    def send() -> None: ...

    found = send.name, send.queue, send.priority, send.timeout_s, send.max_attempts
    assert found == ("mail.send", "mail", 7, 3.0, 2)
    assert not send.is_async


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"priority": 10},
        {"priority": -1},
        {"timeout_s": 0},
        {"max_attempts": 0},
    ],
)
def test_wrong_options_stop_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"task"):
        task(**options)(lambda: None)


def test_a_task_may_say_when_it_has_jobs() -> None:
    @task(cron="@daily", jitter_s=5, group_key="ada")
    def tidy_up(ctx: Context, depth: int = 1) -> None: ...

    assert tidy_up.schedule == {"cron": "@daily", "jitter_s": 5}
    assert tidy_up.options == {"group_key": "ada"}
    with pytest.raises(TypeError, match="without name"):
        task(cron="@daily")(greet.function)
    with pytest.raises(TypeError, match="timezone goes with cron"):
        task(timezone="UTC")(tidy_up.function)
    with pytest.raises(TypeError, match="no option cronn"):
        task(cronn="@daily")(tidy_up.function)  # type: ignore[call-overload]


async def test_calling_a_task_calls_the_function() -> None:
    context = Context(bytes(24), "default", "greet", 1, b"{}")
    assert await greet("Ada", context) == "Hello Ada"


def test_arguments_are_checked_by_name_before_they_are_sent() -> None:
    greet.check_arguments({"name": "Ada"})
    greet.check_arguments({"name": "Ada", "loud": True})
    with pytest.raises(TypeError, match="needs name"):
        greet.check_arguments({"loud": True})
    with pytest.raises(TypeError, match="no parameter ctx, nam"):
        greet.check_arguments({"name": "Ada", "nam": 1, "ctx": 2})


def test_job_makes_a_spec() -> None:
    assert greet.job(name="Ada") == JobSpec(greet, {"name": "Ada"})


def test_options_of_a_job_go_before_those_of_its_task() -> None:
    @task(queue="mail", group_key="everybody")
    def greet(name: str) -> None: ...

    ada = greet.configure(group_key="ada")
    assert (ada.queue, ada.name, ada.function) == (greet.queue, greet.name, greet.function)

    def sent(spec: JobSpec[Any]) -> Any:
        return msgspec.json.decode(calls.submit(spec, None).body or b"").get("group_key")

    assert sent(greet.job(name="Ada")) == "everybody"
    assert sent(ada.job(name="Ada")) == "ada"
    assert sent(JobSpec(ada, {"name": "Ada"}, options={"group_key": "eve"})) == "eve"
    assert sent(JobSpec("greet", queue="mail", options={"group_key": "eve"})) == "eve"
    assert sent(JobSpec("greet", queue="mail")) is None


@pytest.mark.parametrize("wrong", [{"group": "ada"}, {"name": "ada"}])
def test_unknown_options_stop_at_once(wrong: Any) -> None:
    greet = task(name="greet")(lambda: None)
    with pytest.raises(TypeError, match="no option"):
        greet.configure(**wrong)
    with pytest.raises(TypeError, match="no option"):
        calls.item(JobSpec("greet", queue="mail", options=wrong))
