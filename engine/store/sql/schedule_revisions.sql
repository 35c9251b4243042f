-- What the owner of these shards has to know of, and in which state it should know it.
SELECT schedule.id, schedule.revision
FROM cron_schedules schedule JOIN job_queues queue ON queue.id = schedule.queue_id
WHERE queue.shard = ANY ($1::integer[]) AND schedule.paused_at IS NULL
