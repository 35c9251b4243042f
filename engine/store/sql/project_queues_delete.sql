-- Deleted queues that no job is left of go with their project.
DELETE FROM job_queues WHERE project_id = $1
