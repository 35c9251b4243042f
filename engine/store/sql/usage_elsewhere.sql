-- What was counted in shards that other nodes own.
SELECT organization_id, sum(jobs)::bigint AS jobs
FROM monthly_usage
WHERE month = $1 AND shard <> ALL($2::smallint[]) AND organization_id IS NOT NULL
GROUP BY organization_id
