-- What was refused, the oldest first; all projects for the operator.
SELECT i.id, i.project_id, q.name AS queue, i.job_type, i.enqueued_at, i.problem
FROM inbox i
JOIN job_queues q ON q.id = i.queue_id
WHERE i.refused_at IS NOT NULL
ORDER BY i.number
LIMIT $1
