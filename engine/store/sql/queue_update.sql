-- What is NULL stays as it is.
UPDATE job_queues
SET priority = coalesce($3, priority), settings = coalesce($4, settings)
WHERE project_id = $1 AND id = $2 AND archived_at IS NULL
RETURNING id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
