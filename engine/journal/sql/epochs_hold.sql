-- Who owns the shards, for the tables; nobody else becomes their owner before this commits. In the
-- order in which watermarks_advance and a takeover lock them.
SELECT shard, epoch FROM shard_projection WHERE shard = ANY ($1::smallint[]) ORDER BY shard FOR SHARE
