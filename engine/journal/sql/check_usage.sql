-- Every count of submitted jobs, as check_jobs.
SELECT project_id AS id, month, jobs, shard, lsn FROM monthly_usage ORDER BY shard
