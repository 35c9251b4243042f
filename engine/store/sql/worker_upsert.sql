-- Workers as they connect, many at once; who was drained still is. What does not come back was not
-- written: the id belongs to another project, or the project was deleted, which the lock rules out
-- for the others until they are written.
INSERT INTO workers (id, project_id, name, type, status, last_heartbeat)
SELECT new.*
FROM unnest($1::uuid[], $2::uuid[], $3::varchar[], $4::varchar[], $5::varchar[], $6::timestamptz[])
    AS new (id, project_id, name, type, status, last_heartbeat)
JOIN projects AS project ON project.id = new.project_id
FOR KEY SHARE OF project
ON CONFLICT (id) DO UPDATE
SET name = excluded.name,
    type = excluded.type,
    status = CASE
        WHEN excluded.status = 'online' AND workers.drained THEN 'draining'
        ELSE excluded.status
    END,
    last_heartbeat = greatest(workers.last_heartbeat, excluded.last_heartbeat)
WHERE workers.project_id = excluded.project_id
RETURNING id
