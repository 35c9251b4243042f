-- As it stands until the end of the transaction: what the audit log says of before is true.
SELECT id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
FROM job_queues
WHERE project_id = $1 AND id = $2 AND archived_at IS NULL
FOR UPDATE
