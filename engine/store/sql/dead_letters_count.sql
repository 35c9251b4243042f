-- How many there are, up to a bound, of those that a look like dead_letters.sql would find.
SELECT count(*) FROM (
    SELECT FROM (
        SELECT failed_reason, job_type, tags FROM jobs
        WHERE queue_id = $1 AND failed_reason IS NOT NULL AND status = 'failed'
            AND (finished_at, id) < ($2::timestamptz, $3::uuid)
            AND finished_at >= $4 AND finished_at < $5
        ORDER BY finished_at DESC, id DESC
        LIMIT $10
    ) AS seen
    WHERE ($6::varchar[] IS NULL OR failed_reason = ANY ($6))
        AND ($7::varchar IS NULL OR job_type = $7)
        AND ($8::text[] IS NULL OR tags @> $8)
    LIMIT $9
) AS found
