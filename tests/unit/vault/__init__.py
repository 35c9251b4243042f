"""Tests of engine.actors."""
