-- The policy says whose: both jobs are the project's.
SELECT parent_job_id, child_job_id, on_failure, created_at
FROM job_dependencies
WHERE parent_job_id = $1 AND child_job_id = $2
