-- The first pending jobs of each type in each queue of a shard, lane by lane. The lanes are found by
-- going from one to the next in the index jobs_pending, however many jobs are in each.
WITH RECURSIVE lanes AS (
    (
        SELECT queue_id, job_type
        FROM jobs
        WHERE shard = $1 AND finished_at IS NULL AND status = 'pending'
        ORDER BY queue_id, job_type
        LIMIT 1
    )
    UNION ALL
    SELECT following.queue_id, following.job_type
    FROM lanes
    CROSS JOIN LATERAL (
        SELECT jobs.queue_id, jobs.job_type
        FROM jobs
        WHERE jobs.shard = $1 AND jobs.finished_at IS NULL AND jobs.status = 'pending'
            AND (jobs.queue_id, jobs.job_type) > (lanes.queue_id, lanes.job_type)
        ORDER BY jobs.queue_id, jobs.job_type
        LIMIT 1
    ) AS following
)
SELECT
    page.id, page.queue_id, page.project_id, page.job_type, page.payload, page.status, page.priority, page.scheduled_for, page.created_at,
    page.updated_at, page.started_at, page.finished_at, page.shard, page.lsn, page.lease_lsn, page.worker_id, page.attempts, page.crashes,
    page.max_attempts, page.timeout_s, page.deadline_at, page.result, page.last_error, page.failed_reason, page.idempotency_key,
    page.unique_key, page.group_key, page.tags, page.waiting_on, page.cancel_reason, page.history_until, page.returns, page.options, page.keep
FROM lanes
CROSS JOIN LATERAL (
    SELECT jobs.*
    FROM jobs
    WHERE jobs.shard = $1 AND jobs.queue_id = lanes.queue_id AND jobs.job_type = lanes.job_type
        AND jobs.finished_at IS NULL AND jobs.status = 'pending'
    ORDER BY 9 - jobs.priority, jobs.id
    LIMIT $2
) AS page
