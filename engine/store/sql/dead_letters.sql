-- Dead letters of a queue, the newest failure first, from a place on: (time of the failure, id). No more
-- than $10 of them are looked at, whatever the filter leaves of them, so that each call takes bounded
-- time; the index jobs_dead stops as soon as the page is full.
SELECT seen.*
FROM (
    SELECT * FROM jobs
    WHERE queue_id = $1 AND failed_reason IS NOT NULL AND status = 'failed'
        AND (finished_at, id) < ($2::timestamptz, $3::uuid)
        AND finished_at >= $4 AND finished_at < $5
    ORDER BY finished_at DESC, id DESC
    LIMIT $10
) AS seen
WHERE ($6::varchar[] IS NULL OR failed_reason = ANY ($6))
    AND ($7::varchar IS NULL OR job_type = $7)
    AND ($8::text[] IS NULL OR tags @> $8)
ORDER BY finished_at DESC, id DESC
LIMIT $9
