-- What stands at these places of the log: the first bytes of a body tell whose row it is. The body
-- is stored uncompressed, so that its start is read without the rest.
SELECT log.shard, substring(log.body FROM 1 FOR $3::integer) AS prefix
FROM unnest($1::smallint[], $2::bigint[]) AS place (shard, lsn)
JOIN shard_log AS log USING (shard, lsn)
