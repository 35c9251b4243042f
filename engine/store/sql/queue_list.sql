-- In name order, after the last name of the page before: a range of the unique index.
SELECT id, project_id, name, priority, settings, created_at, shard
FROM job_queues
WHERE project_id = $1 AND name > $2
ORDER BY name
LIMIT $3
