-- The lines of executions that were not kept, each by its range of the primary key. One that has a
-- row is kept: its job failed.
DELETE FROM execution_logs
USING unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS gone (execution_id, low, high)
WHERE execution_logs.id >= gone.low
    AND execution_logs.id <= gone.high
    AND execution_logs.execution_id = gone.execution_id
    AND NOT EXISTS (SELECT FROM job_executions WHERE job_executions.id = gone.execution_id)
