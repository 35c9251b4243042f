"""The JOBS message, for the shard table; nothing of it is visible to Python."""
