"""Fault points and safeguards: off in production, exact in a test build."""

from pathlib import Path

import pytest

from taskforge_server.engine.runtime.faultpoints import IN_TAKEOVER, armed
from taskforge_server.engine.runtime.safeguards import Safeguards, read


def test_a_fault_point_counts_down() -> None:
    deaths: list[int] = []
    hit = armed(f"{IN_TAKEOVER}:2", lambda: deaths.append(1))
    hit("in_projector_transaction")
    hit(IN_TAKEOVER)
    assert not deaths
    hit(IN_TAKEOVER)
    hit(IN_TAKEOVER)
    assert deaths == [1]


def test_a_fault_point_may_wait_for_a_file(tmp_path: Path) -> None:
    deaths: list[int] = []
    trigger = tmp_path / "now"
    hit = armed(f"{IN_TAKEOVER}:2@{trigger}", lambda: deaths.append(1))
    hit(IN_TAKEOVER)
    hit(IN_TAKEOVER)
    trigger.touch()
    hit(IN_TAKEOVER)
    assert not deaths
    hit(IN_TAKEOVER)
    assert deaths == [1]


def test_unknown_fault_points_are_refused() -> None:
    with pytest.raises(ValueError, match="known are"):
        armed("nowhere")


def test_nothing_is_armed_without_the_variable() -> None:
    armed("")(IN_TAKEOVER)


def test_safeguards_are_on_outside_of_test_builds() -> None:
    assert read({"TASKFORGE_TEST_DISABLE": "fence"}) == Safeguards()
    assert all(Safeguards())


def test_a_test_build_switches_safeguards_off() -> None:
    environment = {"TASKFORGE_TEST_BUILD": "1", "TASKFORGE_TEST_DISABLE": "fence"}
    assert read(environment) == Safeguards(fence=False)
    with pytest.raises(ValueError, match="unknown safeguards"):
        read({"TASKFORGE_TEST_BUILD": "1", "TASKFORGE_TEST_DISABLE": "fense"})
