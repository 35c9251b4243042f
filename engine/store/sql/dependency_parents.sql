-- What a job waits for, after the last parent of the page before.
SELECT parent_job_id, child_job_id, on_failure, created_at
FROM job_dependencies
WHERE child_job_id = $1 AND parent_job_id > $2
ORDER BY parent_job_id
LIMIT $3
