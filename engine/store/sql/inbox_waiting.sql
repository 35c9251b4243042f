-- The oldest rows of these shards whose time has come. Those that were put off stand behind others
-- by their time, so that a project over its quota does not stand in the way of the rest.
SELECT i.id, i.project_id, p.organization_id, i.queue_id, i.job_type, i.payload, i.options
FROM inbox i
JOIN projects p ON p.id = i.project_id
WHERE i.refused_at IS NULL AND (i.retry_at IS NULL OR i.retry_at <= now()) AND i.shard = ANY ($1)
ORDER BY i.number
LIMIT $2
