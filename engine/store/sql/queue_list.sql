-- In name order, after the last name of the page before: a range of the unique index.
SELECT id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
FROM job_queues
WHERE project_id = $1 AND name > $2 AND archived_at IS NULL
ORDER BY name
LIMIT $3
