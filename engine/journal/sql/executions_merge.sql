-- As jobs_merge. The id of an execution follows from job and attempt, so that every writer of an
-- attempt meets the same row.
INSERT INTO job_executions AS known (
    id, job_id, worker_id, status, output, attempt_number, started_at, finished_at, created_at,
    error, shard, lsn)
SELECT DISTINCT ON (id)
    id, job_id, worker_id, status, output, attempt_number, started_at, finished_at, created_at,
    error, shard, lsn
FROM incoming_executions
ORDER BY id, lsn DESC
ON CONFLICT (id) DO UPDATE SET
    job_id = excluded.job_id,
    worker_id = excluded.worker_id,
    status = excluded.status,
    output = excluded.output,
    attempt_number = excluded.attempt_number,
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    created_at = excluded.created_at,
    error = excluded.error,
    shard = excluded.shard,
    lsn = excluded.lsn
WHERE excluded.lsn >= known.lsn
