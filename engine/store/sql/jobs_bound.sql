-- Waiting jobs that must be in memory, because something is looked up by what they were told, or they
-- are held until somebody says more. Served by the partial index jobs_bound.
SELECT
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM jobs
WHERE shard = $1 AND finished_at IS NULL AND status IN ('pending', 'scheduled')
    AND (options IS NOT NULL OR (status = 'scheduled' AND scheduled_for IS NULL))
