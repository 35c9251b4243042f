-- Deleted queues that no job is left of. Some time after the deletion, when all that had ended by
-- then is surely in the tables.
DELETE FROM job_queues
WHERE id IN (
    SELECT id FROM job_queues
    WHERE archived_at < $1 AND NOT EXISTS (SELECT FROM jobs WHERE jobs.queue_id = job_queues.id)
    LIMIT $2)
RETURNING id
