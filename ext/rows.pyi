"""Rows of binary COPY, for the slot table; `split_rows` stands in table.pyi."""
