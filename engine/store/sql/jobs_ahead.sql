-- How many rows of a queue and type stand before a job in the order in which they start, up to a
-- bound. The index of waiting jobs is read from its beginning to the job, or to the bound.
SELECT count(*) FROM (
    SELECT FROM jobs
    WHERE shard = $1 AND queue_id = $2 AND job_type = $3
        AND finished_at IS NULL AND status = 'pending'
        AND (9 - priority, id) < ($4, $5) AND project_id = $6
    LIMIT $7
) AS ahead
