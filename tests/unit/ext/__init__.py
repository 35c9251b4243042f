"""Tests of the compiled ground and its plain twin."""
