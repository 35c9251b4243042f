"""The duplex stream between workers and the server."""
