-- Workers that left and that nobody has plans for, a portion at a time: those that left long ago, and
-- of each project all but the last ones. Every process is a worker of its own: they would pile up.
DELETE FROM workers
WHERE id IN (
    SELECT gone.id
    FROM (
        SELECT worker.id, worker.last_heartbeat,
            row_number() OVER (
                PARTITION BY worker.project_id ORDER BY worker.last_heartbeat DESC, worker.id
            ) AS place
        FROM workers AS worker
        WHERE worker.status = 'offline'
            AND NOT EXISTS (
                SELECT FROM queue_worker_assignments AS assignment
                WHERE assignment.worker_id = worker.id)
    ) AS gone
    WHERE gone.last_heartbeat < $1 OR gone.place > $2
    LIMIT $3)
