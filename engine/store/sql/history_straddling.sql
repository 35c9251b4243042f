-- Jobs of a day that goes with attempts on other days, whose partitions stay: they go row by row, with
-- all that is theirs. One that was put back meanwhile is found changed when its row is locked.
WITH doomed AS (
    SELECT job.id, job.attempts, job.started_at
    FROM jobs AS job
    WHERE job.id IN (
            SELECT job_id FROM job_executions
            WHERE job_id >= uuid_floor($1) AND job_id < uuid_floor($2)
                AND (id < uuid_floor($1) OR id >= uuid_floor($2))
            LIMIT $3)
        AND job.id >= uuid_floor($1) AND job.id < uuid_floor($2)
        AND job.finished_at < $4
        AND job.status IN ('succeeded', 'failed', 'cancelled')
    FOR UPDATE
), attempts AS (
    DELETE FROM job_executions
    WHERE id IN (SELECT executions_of(id, attempts, started_at) FROM doomed)
    RETURNING id
), lines AS (
    DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM attempts)
)
DELETE FROM jobs WHERE id IN (SELECT id FROM doomed)
