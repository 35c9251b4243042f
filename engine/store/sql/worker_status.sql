-- Status and heartbeat of many workers at once; a heartbeat never goes back.
UPDATE workers
SET status = seen.status, last_heartbeat = greatest(workers.last_heartbeat, seen.at)
FROM unnest($1::uuid[], $2::varchar[], $3::timestamptz[]) AS seen (id, status, at)
WHERE workers.id = seen.id
