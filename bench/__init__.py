"""Benchmarks: single parts in micro, whole servers in load."""
