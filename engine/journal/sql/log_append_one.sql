-- log_append for a single row: at low load most commits have one, and this plan starts faster.
INSERT INTO shard_log (shard, lsn, epoch, events, body)
SELECT $1::smallint, $2::bigint, $3::bigint, $4::integer, $5::bytea
WHERE $2 = 1 + coalesce((SELECT max(log.lsn) FROM shard_log AS log WHERE log.shard = $1), 0)
ON CONFLICT DO NOTHING
RETURNING shard
