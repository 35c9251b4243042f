-- The policy says whose it may be.
DELETE FROM job_dependencies
WHERE parent_job_id = $1 AND child_job_id = $2
RETURNING parent_job_id, child_job_id, on_failure, created_at
