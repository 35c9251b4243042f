-- The queue of an assignment that is made or changed, held to the end of the transaction: so the
-- count of its assignments holds too.
SELECT id FROM job_queues WHERE project_id = $1 AND id = $2 AND archived_at IS NULL FOR UPDATE
