"""Which rows of a table others take the place of: id and lsn of rows of binary COPY."""

def row_places(
    rows: list[bytes], lsn_column: int
) -> tuple[bytes, list[int], bytes, bytes] | None: ...
