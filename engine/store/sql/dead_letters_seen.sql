-- Where a look at dead letters ended that found less than a page: the last of those that it looked at.
SELECT finished_at, id FROM jobs
WHERE queue_id = $1 AND failed_reason IS NOT NULL AND status = 'failed'
    AND (finished_at, id) < ($2::timestamptz, $3::uuid)
    AND finished_at >= $4 AND finished_at < $5
ORDER BY finished_at DESC, id DESC
OFFSET $6 - 1 LIMIT 1
