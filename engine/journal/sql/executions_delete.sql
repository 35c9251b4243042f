-- What was written of such jobs while they ran, and what their handlers logged meanwhile.
WITH deleted AS (
    DELETE FROM job_executions AS known
    USING unnest($1::uuid[], $2::bigint[]) AS gone (job_id, lsn)
    WHERE known.job_id = gone.job_id AND known.status <> 'succeeded' AND known.lsn <= gone.lsn
    RETURNING known.id
)
DELETE FROM execution_logs USING deleted WHERE execution_logs.execution_id = deleted.id
