-- The next jobs of a shard that come due up to a time: those behind a time and an id. Served by
-- jobs_scheduled; what is due in a month is not read.
SELECT
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM jobs
WHERE shard = $1 AND finished_at IS NULL AND status = 'scheduled'
    AND (scheduled_for, id) > ($2::timestamptz, $3::uuid) AND scheduled_for <= $4::timestamptz
ORDER BY scheduled_for, id
LIMIT $5
