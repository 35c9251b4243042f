-- The jobs of a shard that are not over: those that run, or those that wait. The partial indexes
-- jobs_running, jobs_pending and jobs_scheduled are small however many finished jobs there are. Columns
-- in the order that the shard table reads.
SELECT
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM jobs
WHERE shard = $1 AND finished_at IS NULL
    AND (($2 AND status = 'processing') OR (NOT $2 AND status IN ('pending', 'scheduled')))
ORDER BY shard, priority DESC, id
