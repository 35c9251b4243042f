-- Schedules as the engine keeps them in memory, paused ones left out. A large payload is read when a
-- tick wants it.
SELECT schedule.id, schedule.project_id, schedule.queue_id, queue.shard,
    schedule.cron, schedule.timezone, schedule.job::text AS job,
    CASE WHEN octet_length(schedule.payload::text) <= $2 THEN schedule.payload::text END AS payload,
    schedule.catch_up, schedule.window_s, schedule.overlap, schedule.jitter_s, schedule.decided_at,
    schedule.last_job_id, schedule.revision
FROM cron_schedules schedule JOIN job_queues queue ON queue.id = schedule.queue_id
WHERE schedule.id = ANY ($1::uuid[]) AND schedule.paused_at IS NULL
