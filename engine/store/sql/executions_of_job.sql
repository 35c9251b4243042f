-- All attempts of a job, of which there may be some in every partition since its submit.
SELECT * FROM job_executions WHERE job_id = $1 ORDER BY attempt_number, id LIMIT $2
