-- How many jobs of each queue wait, by state; of those that the log does not speak of any more. The
-- others are in memory when the log has been replayed.
SELECT
    jobs.shard, jobs.queue_id, jobs.project_id,
    count(*) FILTER (WHERE jobs.status = 'pending') AS pending,
    count(*) FILTER (WHERE jobs.status = 'scheduled') AS scheduled
FROM jobs
JOIN unnest($1::smallint[], $2::bigint[]) AS mark (shard, lsn) ON mark.shard = jobs.shard
WHERE jobs.finished_at IS NULL AND jobs.status IN ('pending', 'scheduled')
    AND jobs.lsn <= mark.lsn
GROUP BY jobs.shard, jobs.queue_id, jobs.project_id
