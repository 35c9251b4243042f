-- Dead letters of a queue that failed before a time, the oldest first, with their attempts and lines.
-- One whose hook is still to come stays, and so does one that was put back meanwhile.
WITH doomed AS (
    SELECT id FROM jobs
    WHERE queue_id = $1 AND failed_reason IS NOT NULL AND status = 'failed' AND finished_at < $2
        AND NOT EXISTS (
            SELECT FROM dead_letter_hooks AS hook
            WHERE hook.queue_id = $1 AND (jobs.lsn, jobs.id) > (hook.lsn, hook.job_id)
        )
    ORDER BY finished_at, id
    LIMIT $3
    FOR UPDATE
), attempts AS (
    DELETE FROM job_executions
    WHERE job_id IN (SELECT id FROM doomed) AND status <> 'succeeded'
    RETURNING id
), lines AS (
    DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM attempts)
)
DELETE FROM jobs WHERE id IN (SELECT id FROM doomed)
