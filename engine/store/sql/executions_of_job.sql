-- The attempts of a job, of which there may be some in every partition since its submit: those that did
-- not succeed, and the last one, whose id is known, if it did.
SELECT * FROM job_executions WHERE job_id = $1 AND status <> 'succeeded'
UNION ALL
SELECT * FROM job_executions WHERE id = $2 AND status = 'succeeded'
ORDER BY attempt_number, id
LIMIT $3
