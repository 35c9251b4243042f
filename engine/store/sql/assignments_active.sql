-- Who serves these queues, and with which weights; all queues, without ids. For a node's memory.
SELECT assignment.queue_id, assignment.worker_id, assignment.weight
FROM queue_worker_assignments AS assignment
JOIN job_queues AS queue ON queue.id = assignment.queue_id
WHERE assignment.is_active
    AND queue.archived_at IS NULL
    AND ($1::uuid[] IS NULL OR assignment.queue_id = ANY ($1))
