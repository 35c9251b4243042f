"""Tests of the Python SDK against stand-ins of the server that speak its protocol."""
