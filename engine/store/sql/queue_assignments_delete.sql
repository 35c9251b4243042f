-- No worker serves a deleted queue.
DELETE FROM queue_worker_assignments WHERE queue_id = $1
