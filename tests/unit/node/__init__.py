"""Tests of engine.node that need no server."""
