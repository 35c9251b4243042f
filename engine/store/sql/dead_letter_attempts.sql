-- The newest attempts of some jobs, in order.
SELECT attempt.*
FROM unnest($1::uuid[]) AS wanted (job_id)
CROSS JOIN LATERAL (
    SELECT * FROM job_executions
    WHERE job_executions.job_id = wanted.job_id
    ORDER BY attempt_number DESC
    LIMIT $2
) AS attempt
ORDER BY attempt.job_id, attempt.attempt_number
