"""The plain twin of `ext.rowplaces`: the same interface. See there."""

from taskforge_server.ext.pure.ids import shard_of
from taskforge_server.ext.pure.tablerows import split_rows


def row_places(rows: list[bytes], lsn_column: int) -> tuple[bytes, list[int], bytes, bytes] | None:
    """(ids, greatest lsns, least id, greatest id) of these parts of whole rows; None when there is
    no row, or an id comes twice. The lsns stand in order of their shards, up to the last one; 0:
    none of its rows is here. ValueError for what is no row."""
    places: dict[bytes, int] = {}
    count = 0
    for part in rows:
        for start, end in split_rows(part):
            job_id, lsn = _place(part[start:end], lsn_column)
            places[job_id] = int.from_bytes(lsn, signed=True)
            count += 1
    if not count or len(places) != count:
        return None
    lsns = [0] * (max(map(shard_of, places)) + 1)
    for job_id, number in places.items():
        lsns[shard_of(job_id)] = max(lsns[shard_of(job_id)], number)
    return b"".join(places), lsns, min(places), max(places)


def _place(row: bytes, lsn_column: int) -> tuple[bytes, bytes]:
    columns = int.from_bytes(row[:2])
    if not 0 < lsn_column < columns:
        raise ValueError(f"{columns} columns")
    cells, at = [], 2
    for _ in range(columns):
        size = int.from_bytes(row[at : at + 4], signed=True)
        cells.append(row[at + 4 : at + 4 + max(size, 0)])
        at += 4 + max(size, 0)
    if len(cells[0]) != 16 or len(cells[lsn_column]) != 8:
        raise ValueError("no row with an id and an lsn")
    return cells[0], cells[lsn_column]
