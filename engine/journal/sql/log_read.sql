-- The rows above an lsn of each shard, in the order of the primary key.
SELECT log.shard, log.lsn, log.epoch, log.events, log.body
FROM unnest($1::smallint[], $2::bigint[]) AS known (shard, lsn)
JOIN shard_log AS log ON log.shard = known.shard AND log.lsn > known.lsn
ORDER BY log.shard, log.lsn
