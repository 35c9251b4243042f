-- Keys of ticks that the rows of their schedules have known to be decided for long. Served by
-- idx_idempotency_keys_ticks.
DELETE FROM idempotency_keys
WHERE (project_id, key) IN (
    SELECT project_id, key FROM idempotency_keys
    WHERE key LIKE 'cron %' AND created_at < $1 LIMIT $2)
