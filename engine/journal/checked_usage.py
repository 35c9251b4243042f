"""How many jobs were submitted: the `submitted` events of the log against `monthly_usage`.

A row is a whole count up to its lsn; a later event of its project and month makes a new one, with
the watermark. So with the whole log each count is that of the events up to the watermark, or up to
the row's lsn where that is ahead. Of a log that was trimmed only the lsn of a row can be judged.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Finding: TypeAlias = tuple[str, bytes, str, str]
"""kind, id of the project, expected, found"""


class Count(NamedTuple):
    """Submitted by the events at an lsn."""

    lsn: int
    project_id: bytes | None
    """None: nobody knows any more, since the queue is gone with its jobs."""
    month: int
    jobs: int


def usage_findings(
    rows: Iterable[Row], counts: Iterable[Count], mark: int, head: int, *, whole: bool
) -> Iterator[Finding]:
    """What is wrong with the rows of one shard, whose log ends at `head`."""
    stored = {(row["id"], row["month"]): row for row in rows}
    for row in stored.values():
        if row["lsn"] > head:
            yield "usage lsn", row["id"], f"at most {head}", str(row["lsn"])
    if not whole:
        return
    expected: Counter[tuple[bytes, int]] = Counter()
    spare: Counter[int] = Counter()
    for count in counts:
        if count.project_id is None:
            spare[count.month] += count.jobs
            continue
        key = count.project_id, count.month
        known = stored.get(key)
        if count.lsn <= max(mark, 0 if known is None else known["lsn"]):
            expected[key] += count.jobs
    for key in sorted(stored.keys() | expected.keys()):
        project_id, month = key
        found = stored[key]["jobs"] if key in stored else 0
        if not expected[key] <= found <= expected[key] + spare[month]:
            yield "usage jobs", project_id, f"{expected[key]} in {month}", f"{found} in {month}"
