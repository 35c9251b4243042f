-- From here on the name is free: the unique index leaves deleted queues aside.
UPDATE job_queues SET archived_at = clock_timestamp()
WHERE project_id = $1 AND id = $2
RETURNING id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
