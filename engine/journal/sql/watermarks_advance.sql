-- A watermark never goes back. A shard that a later owner took over (epoch) is not in the answer: its
-- writer commits nothing. The row stays locked until the commit, so that a takeover waits for it.
INSERT INTO shard_projection AS known (shard, lsn, epoch)
SELECT fresh.shard, fresh.lsn, fresh.epoch
FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS fresh (shard, lsn, epoch)
ORDER BY fresh.shard
ON CONFLICT (shard) DO UPDATE SET
    lsn = greatest(known.lsn, excluded.lsn),
    updated_at = now()
WHERE known.epoch <= excluded.epoch
RETURNING shard
