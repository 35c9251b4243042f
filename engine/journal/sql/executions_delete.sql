-- What was written of such jobs while they ran.
DELETE FROM job_executions AS known
USING unnest($1::uuid[], $2::bigint[]) AS gone (job_id, lsn)
WHERE known.job_id = gone.job_id AND known.lsn <= gone.lsn
