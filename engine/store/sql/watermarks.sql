-- How far the log of each shard is in the tables; a shard without a row was never projected.
SELECT shard, lsn FROM shard_projection WHERE shard = ANY ($1::smallint[])
