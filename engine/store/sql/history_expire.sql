-- Finished jobs of an organisation past their days, with their attempts and lines, the oldest first:
-- those of days that are over as a whole, which did not go with their partition. The id carries the
-- time of the submit, so the index of each queue finds them; what was finished later stays, and so does
-- what was put back meanwhile: it is found changed when its row is locked. All parts see the rows as
-- they were before.
WITH doomed AS (
    SELECT job.id, job.attempts, job.started_at
    FROM projects AS project
    JOIN job_queues AS queue ON queue.project_id = project.id
    JOIN jobs AS job ON job.queue_id = queue.id
    WHERE project.organization_id = $1
        AND job.id < uuid_floor(date_trunc('day', $2::timestamptz, 'UTC'))
        AND job.finished_at < $2
        AND job.status IN ('succeeded', 'failed', 'cancelled')
    ORDER BY job.id
    LIMIT $3
    FOR UPDATE OF job
), attempts AS (
    DELETE FROM job_executions
    WHERE id IN (SELECT executions_of(id, attempts, started_at) FROM doomed)
    RETURNING id
), lines AS (
    DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM attempts)
)
DELETE FROM jobs WHERE id IN (SELECT id FROM doomed)
