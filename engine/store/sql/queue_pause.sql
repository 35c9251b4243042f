-- Since when it is paused stays as it was; a queue that goes on has no such time.
UPDATE job_queues
SET paused_at = CASE WHEN $3 THEN coalesce(paused_at, clock_timestamp()) END
WHERE project_id = $1 AND id = $2 AND archived_at IS NULL
RETURNING id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
