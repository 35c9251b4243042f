-- The newest row of each shard: one step from the upper end of the primary key for each.
SELECT wanted.shard, head.lsn, head.epoch
FROM unnest($1::smallint[]) AS wanted (shard)
CROSS JOIN LATERAL (
    SELECT log.lsn, log.epoch
    FROM shard_log AS log
    WHERE log.shard = wanted.shard
    ORDER BY log.lsn DESC
    LIMIT 1
) AS head
