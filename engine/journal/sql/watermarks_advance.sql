-- A watermark never goes back: an earlier owner of the shard may still be writing what it knew.
INSERT INTO shard_projection AS known (shard, lsn)
SELECT fresh.shard, fresh.lsn
FROM unnest($1::smallint[], $2::bigint[]) AS fresh (shard, lsn)
ORDER BY fresh.shard
ON CONFLICT (shard) DO UPDATE SET
    lsn = greatest(known.lsn, excluded.lsn),
    updated_at = now()
