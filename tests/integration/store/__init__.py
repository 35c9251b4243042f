"""Postgres as the store uses it: against the real server."""
