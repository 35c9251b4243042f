-- The next waiting jobs of a queue by their ids, for who goes through all of them.
SELECT
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM jobs
WHERE queue_id = $1 AND id > $2 AND finished_at IS NULL AND status IN ('pending', 'scheduled')
ORDER BY id
LIMIT $3
