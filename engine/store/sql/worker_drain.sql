-- Whether the worker is to get new jobs. The status of a connected one follows at once.
UPDATE workers
SET drained = $3,
    status = CASE
        WHEN status = 'offline' THEN status
        WHEN $3 THEN 'draining'
        ELSE 'online'
    END
WHERE project_id = $1 AND id = $2
RETURNING id, project_id, name, type AS worker_type, status, drained, last_heartbeat, created_at
