-- Workers that left long ago and that nobody has plans for, a portion at a time: every process is a
-- worker of its own, so they would pile up.
DELETE FROM workers
WHERE id IN (
    SELECT worker.id
    FROM workers AS worker
    WHERE worker.last_heartbeat < $1
        AND worker.status = 'offline'
        AND NOT EXISTS (
            SELECT FROM queue_worker_assignments AS assignment
            WHERE assignment.worker_id = worker.id)
    LIMIT $2)
