-- Which queues a worker is assigned to, for people: some of the names.
SELECT queue.name
FROM queue_worker_assignments AS assignment
JOIN job_queues AS queue ON queue.id = assignment.queue_id
WHERE assignment.worker_id = $1 AND queue.archived_at IS NULL
ORDER BY queue.name
LIMIT $2
