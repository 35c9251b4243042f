-- Every execution, as check_jobs.
SELECT
    id, job_id, worker_id, status, output, attempt_number, started_at, finished_at, created_at,
    error, shard, lsn
FROM job_executions
ORDER BY shard
