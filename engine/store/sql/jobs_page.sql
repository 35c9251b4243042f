-- The next pending jobs of one type in one queue, in the order in which they start: those behind a
-- priority and an id. One comparison of rows, so that the index jobs_pending is entered at this place
-- and not read from its beginning, where the jobs that have started were.
SELECT
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM jobs
WHERE shard = $1 AND queue_id = $2 AND job_type = $3 AND status = 'pending'
    AND (9 - priority, id) > (9 - $4::integer, $5::uuid)
ORDER BY 9 - priority, id
LIMIT $6
