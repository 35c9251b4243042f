-- The queue has a hook from now on: what has failed and is in the tables is not told of.
INSERT INTO dead_letter_hooks (queue_id, lsn, job_id)
SELECT
    $1,
    coalesce((
        SELECT max(lsn) FROM jobs
        WHERE queue_id = $1 AND failed_reason IS NOT NULL AND status = 'failed'), 0),
    'ffffffff-ffff-ffff-ffff-ffffffffffff'
ON CONFLICT (queue_id) DO NOTHING
