-- What waits for a job, after the last child of the page before: a range of the primary key.
SELECT parent_job_id, child_job_id, on_failure, created_at
FROM job_dependencies
WHERE parent_job_id = $1 AND child_job_id > $2
ORDER BY child_job_id
LIMIT $3
