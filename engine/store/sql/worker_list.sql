-- The workers of a project, by id, after the last one of the page before.
SELECT id, project_id, name, type AS worker_type, status, last_heartbeat, created_at
FROM workers
WHERE project_id = $1 AND id > $2
ORDER BY id
LIMIT $3
