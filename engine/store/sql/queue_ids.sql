-- Which queues the jobs of a project can be in; deleted ones too, as long as jobs of them are kept.
SELECT id FROM job_queues WHERE project_id = $1 ORDER BY id
