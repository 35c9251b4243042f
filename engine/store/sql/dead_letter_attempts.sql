-- The newest attempts of some jobs, in order, as many as weigh no more than $3 together: the newest of
-- each before the second newest.
SELECT seen.*
FROM (
    SELECT
        attempt.*,
        sum(coalesce(octet_length(attempt.error::text), 0)
            + coalesce(octet_length(attempt.output), 0))
            OVER (ORDER BY attempt.place, attempt.job_id) AS weight
    FROM unnest($1::uuid[]) AS wanted (job_id)
    CROSS JOIN LATERAL (
        SELECT *, row_number() OVER (ORDER BY attempt_number DESC) AS place FROM job_executions
        WHERE job_executions.job_id = wanted.job_id AND job_executions.status <> 'succeeded'
        ORDER BY attempt_number DESC
        LIMIT $2
    ) AS attempt
) AS seen
WHERE seen.weight <= $3
ORDER BY seen.job_id, seen.attempt_number
