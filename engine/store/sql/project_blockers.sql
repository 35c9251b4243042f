-- What would be orphaned without the project: queues, those that stand for jobs that are kept
-- included, and workers that are there.
SELECT
    (SELECT count(*) FROM job_queues
        WHERE project_id = $1 AND archived_at IS NULL) AS queues,
    (SELECT count(*) FROM job_queues
        WHERE project_id = $1 AND archived_at IS NOT NULL) AS deleted_queues_with_jobs,
    (SELECT count(*) FROM workers
        WHERE project_id = $1 AND status <> 'offline') AS connected_workers
