-- Asking twice is no fault.
INSERT INTO job_dependencies (parent_job_id, child_job_id, project_id) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
