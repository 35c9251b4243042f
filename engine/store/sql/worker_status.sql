-- Status and heartbeat of many workers at once; a heartbeat never goes back. A node that has not yet
-- heard that a worker is drained does not say so: the row knows.
UPDATE workers
SET status = CASE WHEN seen.status = 'online' AND drained THEN 'draining' ELSE seen.status END,
    last_heartbeat = greatest(workers.last_heartbeat, seen.at)
FROM unnest($1::uuid[], $2::varchar[], $3::timestamptz[]) AS seen (id, status, at)
WHERE workers.id = seen.id
