-- The queue is the project's: the policy of the table says so once more.
SELECT assignment.queue_id, assignment.worker_id, assignment.weight, assignment.is_active,
    assignment.created_at
FROM queue_worker_assignments AS assignment
JOIN job_queues AS queue ON queue.id = assignment.queue_id
WHERE queue.project_id = $1 AND queue.id = $2 AND assignment.worker_id = $3
