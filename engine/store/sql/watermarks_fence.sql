-- From now on no earlier owner writes these shards: who was about to commit is waited for, and what
-- the tables hold then is all that there will be of him. Before the watermarks are read.
INSERT INTO shard_projection AS known (shard, lsn, epoch)
SELECT fresh.shard, 0, fresh.epoch
FROM unnest($1::smallint[], $2::bigint[]) AS fresh (shard, epoch)
ORDER BY fresh.shard
ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch
WHERE known.epoch < excluded.epoch
