-- The next pending jobs of one type in one queue, in the order in which they start: those behind a
-- priority and an id. One comparison of rows, so that the index jobs_pending is entered at this place
-- and not read from its beginning, where the jobs that have started were.
-- Who asks knows queue, project, type, state and shard; and what most jobs have is NULL
-- (ext/pure/tablerows.py, PAGE_COLUMNS): to send a value costs more than to compare it.
SELECT
    id, payload, lsn, created_at, nullif(updated_at, created_at), nullif(priority, 0),
    nullif(attempts, 0), nullif(crashes, 0), nullif(max_attempts, 0), scheduled_for, started_at,
    timeout_s, last_error, returns, idempotency_key, unique_key, group_key, tags, waiting_on, options,
    keep
FROM jobs
WHERE shard = $1 AND queue_id = $2 AND job_type = $3
    AND finished_at IS NULL AND status = 'pending'
    AND (9 - priority, id) > (9 - $4::integer, $5::uuid)
ORDER BY 9 - priority, id
LIMIT $6
