-- What a repeated request made the first time. Served by idx_job_queues_creation_key.
SELECT id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at, creation_hash
FROM job_queues
WHERE project_id = $1 AND creation_key = $2 AND archived_at IS NULL
