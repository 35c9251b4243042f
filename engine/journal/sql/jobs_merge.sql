-- Of several rows for one job the newest counts, and a row never replaces a newer one: writing a
-- round again, late or twice, changes nothing. A row that was there and is not newer goes first, be it
-- an open job's or an ended one's: no key spans both.
DELETE FROM jobs AS known
USING (SELECT id, max(lsn) AS lsn FROM incoming_jobs GROUP BY id) AS fresh
WHERE known.id = fresh.id AND known.lsn <= fresh.lsn;
INSERT INTO jobs (
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep)
SELECT DISTINCT ON (id)
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM incoming_jobs AS fresh
WHERE NOT EXISTS (SELECT FROM jobs AS known WHERE known.id = fresh.id)
ORDER BY id, lsn DESC
