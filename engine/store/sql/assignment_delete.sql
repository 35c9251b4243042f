-- The queue was found in the project before.
DELETE FROM queue_worker_assignments WHERE queue_id = $1 AND worker_id = $2
