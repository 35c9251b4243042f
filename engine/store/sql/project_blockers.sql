-- What would be orphaned without the project: queues, jobs that are kept of deleted queues, and
-- workers that are there.
SELECT
    (SELECT count(*) FROM job_queues
        WHERE project_id = $1 AND archived_at IS NULL) AS queues,
    (SELECT count(*) FROM job_queues
        WHERE project_id = $1 AND archived_at IS NOT NULL
            AND EXISTS (SELECT FROM jobs WHERE jobs.queue_id = job_queues.id))
        AS deleted_queues_whose_jobs_are_kept,
    (SELECT count(*) FROM workers
        WHERE project_id = $1 AND status <> 'offline') AS connected_workers
