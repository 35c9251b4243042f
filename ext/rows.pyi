"""Rows of binary COPY, for the slot table; nothing of it is visible to Python."""
