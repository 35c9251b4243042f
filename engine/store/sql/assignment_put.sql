-- Only a worker of the queue's project: no row comes back for another.
INSERT INTO queue_worker_assignments (queue_id, worker_id, weight, is_active)
SELECT $2, worker.id, $4, $5
FROM workers AS worker
WHERE worker.project_id = $1 AND worker.id = $3
ON CONFLICT (queue_id, worker_id) DO UPDATE
SET weight = excluded.weight, is_active = excluded.is_active
RETURNING queue_id, worker_id, weight, is_active, created_at
