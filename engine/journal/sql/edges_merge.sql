-- Which job waits for which. An edge never changes: whoever writes it again, after a crash or when its
-- outcome was in doubt, finds it there. A replay may not know the project: the child's row does.
INSERT INTO job_dependencies (parent_job_id, child_job_id, project_id, on_failure)
SELECT DISTINCT ON (parent, child) parent, child, coalesce(project, job.project_id), policy
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::varchar[])
    AS fresh (parent, child, project, policy)
LEFT JOIN jobs AS job ON job.id = fresh.child AND fresh.project IS NULL
WHERE coalesce(project, job.project_id) IS NOT NULL
ON CONFLICT DO NOTHING
