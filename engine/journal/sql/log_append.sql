-- One row for each shard that has something to say, in one statement: one round trip, one commit.
-- The primary key lets only one writer have an lsn. The comparison with the head does two things
-- more: it keeps the log dense, and it refuses a writer that slept so long that the row of its
-- successor at this lsn was trimmed already. The head itself is never trimmed.
INSERT INTO shard_log (shard, lsn, epoch, events, body)
SELECT fresh.shard, fresh.lsn, fresh.epoch, fresh.events, fresh.body
FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[])
    AS fresh (shard, lsn, epoch, events, body)
WHERE fresh.lsn = 1 + coalesce(
    (SELECT max(log.lsn) FROM shard_log AS log WHERE log.shard = fresh.shard), 0)
ON CONFLICT DO NOTHING
RETURNING shard
