-- Workers as they connect, many at once; who was drained still is. An id that belongs to another
-- project is left alone, and does not come back.
INSERT INTO workers (id, project_id, name, type, status, last_heartbeat)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::varchar[], $4::varchar[], $5::varchar[], $6::timestamptz[])
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
