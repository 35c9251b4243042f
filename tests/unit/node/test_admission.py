"""The last tenth of a node's room is for those who took less than the mean."""

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Overloaded
from taskforge_server.engine.node.admission import Admission
from taskforge_server.engine.observe.counters import Counters
from taskforge_server.ext.table import SubmitBatch

NOISY, QUIET = b"n" * 16, b"q" * 16
JOBS_MAX = 1_000


def batch(jobs: int = 1) -> SubmitBatch:
    made = SubmitBatch()
    for _ in range(jobs):
        made.add("send", b"{}")
    return made


def opened() -> Admission:
    return Admission(1 << 30, JOBS_MAX, lambda: True, Counters())


def filled(admission: Admission, project_id: bytes) -> int:
    """How many jobs the project got in until it was refused."""
    for jobs in range(2 * JOBS_MAX):
        try:
            admission.admit(batch(), project_id)
        except Overloaded:
            return jobs
    raise AssertionError("never refused")


def test_whoever_fills_the_node_is_refused_first() -> None:
    admission = opened()
    admission.admit(batch(), QUIET)
    assert filled(admission, NOISY) == pytest.approx(JOBS_MAX * limits.ADMIT_SHARED, abs=2)
    assert admission.closed() == []
    assert filled(admission, QUIET) == pytest.approx(JOBS_MAX * (1 - limits.ADMIT_SHARED), abs=2)
    assert admission.closed() == ["the tables are too far behind the log"]


def test_one_project_alone_keeps_room_for_others() -> None:
    admission = opened()
    filled(admission, NOISY)
    admission.admit(batch(), QUIET)


def test_what_was_submitted_long_ago_counts_no_more() -> None:
    admission = opened()
    filled(admission, NOISY)
    for _ in range(100 * limits.LATELY_SWEEPS):
        admission.measure(())
    filled(admission, QUIET)
    admission.admit(batch(), NOISY)
