-- While the queue is held: nobody adds another one meanwhile.
SELECT count(*) FROM queue_worker_assignments WHERE queue_id = $1
