"""The plain twin of `ext.rowplaces`: the same interface. See there."""

from taskforge_server.ext.pure.tablerows import split_rows


def row_places(rows: list[bytes], lsn_column: int) -> bytes | None:
    """The places of these parts of whole rows; None when an id comes twice. ValueError for what is
    no row."""
    places: dict[bytes, bytes] = {}
    count = 0
    for part in rows:
        for start, end in split_rows(part):
            job_id, lsn = _place(part[start:end], lsn_column)
            places[job_id] = job_id + lsn
            count += 1
    return b"".join(places.values()) if len(places) == count else None


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
