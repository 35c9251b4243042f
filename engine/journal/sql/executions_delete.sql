-- What was written of such jobs while they ran.
DELETE FROM job_executions WHERE job_id = ANY($1::uuid[])
