-- One row for each shard; those that are there stay.
INSERT INTO shards (shard) SELECT generate_series(0, $1::integer - 1) ON CONFLICT DO NOTHING
