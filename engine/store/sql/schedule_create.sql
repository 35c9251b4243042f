-- The queue's row is locked, so that it is not deleted meanwhile; no row comes back when it is, or
-- when the project has as many schedules as it may have. A name that is taken violates
-- cron_schedules_name_unique, an Idempotency-Key that made another idx_cron_schedules_creation_key.
WITH queue AS (
    SELECT id, name FROM job_queues
    WHERE project_id = $2 AND id = $3 AND archived_at IS NULL
    FOR SHARE
), schedule AS (
    INSERT INTO cron_schedules (
        id, project_id, queue_id, name, cron, timezone, job, payload, catch_up, window_s, overlap,
        jitter_s, paused_at, decided_at, next_at, creation_key, creation_hash)
    SELECT $1, $2, queue.id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $17, $18
    FROM queue
    WHERE (SELECT count(*) FROM cron_schedules WHERE project_id = $2) < $16
    RETURNING *
)
SELECT schedule.id, schedule.project_id, schedule.queue_id, queue.name AS queue, schedule.name,
    schedule.cron, schedule.timezone, schedule.job::text AS job, schedule.payload::text AS payload,
    schedule.catch_up, schedule.window_s, schedule.overlap, schedule.jitter_s, schedule.paused_at,
    schedule.decided_at, schedule.next_at, schedule.last_tick, schedule.last_job_id,
    schedule.last_problem, schedule.revision, schedule.created_at, schedule.updated_at
FROM schedule JOIN queue ON queue.id = schedule.queue_id
