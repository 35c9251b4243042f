-- log_append for a single row: at low load most commits have one, and what it costs is waited for.
-- So it returns no row (the command tag says whether there is one), and a writer that meets the row
-- of another at the very moment gets a unique violation: ON CONFLICT would look twice.
INSERT INTO shard_log (shard, lsn, epoch, events, body)
SELECT $1::smallint, $2::bigint, $3::bigint, $4::integer, $5::bytea
WHERE $2 = 1 + coalesce(
    (SELECT log.lsn FROM shard_log AS log WHERE log.shard = $1 ORDER BY log.lsn DESC LIMIT 1), 0)
