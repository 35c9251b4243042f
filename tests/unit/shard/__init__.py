"""Tests of engine.shard."""
