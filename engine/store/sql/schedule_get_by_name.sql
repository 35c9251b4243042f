SELECT schedule.id, schedule.project_id, schedule.queue_id, queue.name AS queue, schedule.name,
    schedule.cron, schedule.timezone, schedule.job::text AS job, schedule.payload::text AS payload,
    schedule.catch_up, schedule.window_s, schedule.overlap, schedule.jitter_s, schedule.paused_at,
    schedule.decided_at, schedule.next_at, schedule.last_tick, schedule.last_job_id,
    schedule.last_problem, schedule.revision, schedule.created_at, schedule.updated_at
FROM cron_schedules schedule JOIN job_queues queue ON queue.id = schedule.queue_id
WHERE schedule.project_id = $1 AND schedule.name = $2
