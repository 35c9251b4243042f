"""The durable log of every shard, its replay, and its projection into the tables."""
