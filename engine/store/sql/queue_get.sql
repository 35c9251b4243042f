-- Within the project: an id of another project is as good as unknown.
SELECT id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
FROM job_queues
WHERE project_id = $1 AND id = $2
