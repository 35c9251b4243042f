-- These dead letters, with their attempts and lines. One whose hook is still to come
-- stays. Whoever was put back meanwhile is found changed when the row is locked, and stays too.
WITH doomed AS (
    SELECT id FROM jobs
    WHERE id = ANY ($2::uuid[]) AND queue_id = $1 AND status = 'failed'
        AND NOT EXISTS (
            SELECT FROM dead_letter_hooks AS hook
            WHERE hook.queue_id = $1 AND (jobs.lsn, jobs.id) > (hook.lsn, hook.job_id)
        )
    FOR UPDATE
), attempts AS (
    DELETE FROM job_executions
    WHERE job_id IN (SELECT id FROM doomed) AND status <> 'succeeded'
    RETURNING id
), lines AS (
    DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM attempts)
)
DELETE FROM jobs WHERE id IN (SELECT id FROM doomed) RETURNING id
