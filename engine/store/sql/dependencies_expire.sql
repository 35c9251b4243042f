-- Some edges, from behind the last one looked at, in the order of their children. An edge goes when the
-- row of its child is gone. A parent that stayed for its children, in a queue that keeps no such jobs,
-- goes when none of them is open and it ended long enough ago that the tables know all who wait for it.
WITH looked AS (
    SELECT parent_job_id, child_job_id
    FROM job_dependencies
    WHERE (child_job_id, parent_job_id) > ($1::uuid, $2::uuid)
    ORDER BY child_job_id, parent_job_id
    LIMIT $3
), over AS (
    SELECT looked.parent_job_id, looked.child_job_id, child.id IS NULL AS gone
    FROM looked
    LEFT JOIN jobs AS child ON child.id = looked.child_job_id
    WHERE child.id IS NULL OR child.status IN ('succeeded', 'failed', 'cancelled')
), doomed AS (
    SELECT job.id, job.attempts, job.started_at
    FROM (SELECT DISTINCT parent_job_id FROM over) AS parent
    JOIN jobs AS job ON job.id = parent.parent_job_id
    JOIN job_queues AS queue ON queue.id = job.queue_id
    WHERE job.keep
        AND job.finished_at < $4
        AND (queue.settings ->> 'history' = 'none'
            OR queue.settings ->> 'history' = 'failed' AND job.status = 'succeeded')
        AND NOT EXISTS (
            SELECT FROM job_dependencies AS edge
            JOIN jobs AS child ON child.id = edge.child_job_id
            WHERE edge.parent_job_id = job.id
                AND child.status IN ('pending', 'scheduled', 'processing'))
), attempts AS (
    DELETE FROM job_executions
    WHERE id IN (SELECT executions_of(id, attempts, started_at) FROM doomed)
    RETURNING id
), lines AS (
    DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM attempts)
), jobs_gone AS (
    DELETE FROM jobs WHERE id IN (SELECT id FROM doomed)
), edges_gone AS (
    DELETE FROM job_dependencies AS edge
    USING over
    WHERE over.gone
        AND edge.parent_job_id = over.parent_job_id
        AND edge.child_job_id = over.child_job_id
)
SELECT child_job_id, parent_job_id FROM looked ORDER BY child_job_id DESC, parent_job_id DESC LIMIT 1
