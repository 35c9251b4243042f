-- By the unique index on project and name.
SELECT id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
FROM job_queues
WHERE project_id = $1 AND name = $2 AND archived_at IS NULL
