"""Parts of the shard table: what Python sees of them stands in table.pyi."""
