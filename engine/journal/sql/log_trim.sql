-- Drops what lies below the given lsn of each shard, but never the head: the next lsn follows from
-- it.
DELETE FROM shard_log AS log
USING unnest($1::smallint[], $2::bigint[]) AS bound (shard, lsn)
WHERE log.shard = bound.shard
    AND log.lsn < bound.lsn
    AND log.lsn < (SELECT max(newest.lsn) FROM shard_log AS newest WHERE newest.shard = bound.shard)
