"""One suite per port, run over its real and its in-memory adapter."""
