-- Dead letters of a queue whose hooks are to be submitted, in the order of the log. Only up to the
-- watermark: what is behind it may have gaps that are filled later. One statement, so that the
-- watermark and the jobs are of one moment. Without any, one row with the watermark alone.
SELECT projection.lsn AS watermark, dead.*
FROM dead_letter_hooks AS hook
JOIN job_queues AS queue ON queue.id = hook.queue_id
JOIN shard_projection AS projection ON projection.shard = queue.shard
LEFT JOIN LATERAL (
    SELECT * FROM jobs
    WHERE jobs.queue_id = hook.queue_id
        AND jobs.failed_reason IS NOT NULL AND jobs.status = 'failed'
        AND (jobs.lsn, jobs.id) > (hook.lsn, hook.job_id)
        AND jobs.lsn <= projection.lsn
    ORDER BY jobs.lsn, jobs.id
    LIMIT $2
) AS dead ON true
WHERE hook.queue_id = $1
ORDER BY dead.lsn, dead.id
