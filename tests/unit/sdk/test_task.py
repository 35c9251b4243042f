"""What `@task` makes of a function, and which options it refuses."""

from typing import Any

import pytest

from taskforge import Context, JobSpec, task


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
