"""Encryption at rest: keys, and what is sealed with them. No I/O in it."""
