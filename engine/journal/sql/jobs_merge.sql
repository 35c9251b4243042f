-- Of several rows for one job the newest counts, and a row never replaces a newer one: writing a
-- round again, late or twice, changes nothing.
INSERT INTO jobs AS known (
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep)
SELECT DISTINCT ON (id)
    id, queue_id, project_id, job_type, payload, status, priority, scheduled_for, created_at,
    updated_at, started_at, finished_at, shard, lsn, lease_lsn, worker_id, attempts, crashes,
    max_attempts, timeout_s, deadline_at, result, last_error, failed_reason, idempotency_key,
    unique_key, group_key, tags, waiting_on, cancel_reason, history_until, returns, options, keep
FROM incoming_jobs
ORDER BY id, lsn DESC
ON CONFLICT (id) DO UPDATE SET
    queue_id = excluded.queue_id,
    project_id = excluded.project_id,
    job_type = excluded.job_type,
    payload = excluded.payload,
    status = excluded.status,
    priority = excluded.priority,
    scheduled_for = excluded.scheduled_for,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    shard = excluded.shard,
    lsn = excluded.lsn,
    lease_lsn = excluded.lease_lsn,
    worker_id = excluded.worker_id,
    attempts = excluded.attempts,
    crashes = excluded.crashes,
    max_attempts = excluded.max_attempts,
    timeout_s = excluded.timeout_s,
    deadline_at = excluded.deadline_at,
    result = excluded.result,
    last_error = excluded.last_error,
    failed_reason = excluded.failed_reason,
    idempotency_key = excluded.idempotency_key,
    unique_key = excluded.unique_key,
    group_key = excluded.group_key,
    tags = excluded.tags,
    waiting_on = excluded.waiting_on,
    cancel_reason = excluded.cancel_reason,
    history_until = excluded.history_until,
    returns = excluded.returns,
    options = excluded.options,
    keep = excluded.keep
WHERE excluded.lsn >= known.lsn
