"""Nodes on real servers."""
