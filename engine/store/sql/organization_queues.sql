-- How many queues an organisation has, those that were deleted left aside.
SELECT count(*)
FROM job_queues AS queue
JOIN projects AS project ON project.id = queue.project_id
WHERE project.organization_id = $1 AND queue.archived_at IS NULL
