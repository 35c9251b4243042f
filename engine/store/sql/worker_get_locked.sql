-- The same, held to the end of the transaction that changes or deletes it.
SELECT id, project_id, name, type AS worker_type, status, drained, last_heartbeat, created_at
FROM workers
WHERE project_id = $1 AND id = $2
FOR UPDATE
