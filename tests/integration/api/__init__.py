"""The HTTP interface on a real socket, in front of a small engine in memory."""
