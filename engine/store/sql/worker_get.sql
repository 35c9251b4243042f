-- Within the project: an id of another project is as good as unknown.
SELECT id, project_id, name, type AS worker_type, status, drained, last_heartbeat, created_at
FROM workers
WHERE project_id = $1 AND id = $2
