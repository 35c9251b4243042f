-- A page of jobs, the newest first. Each queue gives its newest through idx_jobs_queue_id, which
-- stops after a page, however many jobs there are; then the best of them are taken. The bounds on
-- the id prune partitions. Queues come from the project, so no other project's job can appear.
SELECT page.*
FROM unnest($1::uuid[]) AS wanted (queue_id)
CROSS JOIN LATERAL (
    SELECT * FROM jobs
    WHERE jobs.queue_id = wanted.queue_id
        AND jobs.id < $2
        AND jobs.id >= $3
        AND ($4::varchar[] IS NULL OR jobs.status = ANY ($4))
        AND ($5::varchar IS NULL OR jobs.job_type = $5)
        AND jobs.created_at >= $6
        AND jobs.created_at < $7
    ORDER BY jobs.id DESC
    LIMIT $8
) AS page
ORDER BY page.id DESC
LIMIT $8
