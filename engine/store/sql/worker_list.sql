-- The workers of a project, by id, after the last one of the page before; NULL: of any status or
-- type.
SELECT id, project_id, name, type AS worker_type, status, drained, last_heartbeat, created_at
FROM workers
WHERE project_id = $1 AND id > $2
    AND ($4::varchar IS NULL OR status = $4)
    AND ($5::varchar IS NULL OR type = $5)
ORDER BY id
LIMIT $3
