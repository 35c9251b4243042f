-- The lines of executions, each by its range of the primary key, if nothing else is left of them.
DELETE FROM execution_logs
USING unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS gone (execution_id, low, high)
WHERE execution_logs.id >= gone.low
    AND execution_logs.id <= gone.high
    AND execution_logs.execution_id = gone.execution_id
