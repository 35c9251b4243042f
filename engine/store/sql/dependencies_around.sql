-- All edges that touch these jobs, up to a bound: one step of the way through a graph.
(SELECT parent_job_id, child_job_id, on_failure FROM job_dependencies
    WHERE parent_job_id = ANY ($2::uuid[]) AND project_id = $1
    LIMIT $3)
UNION
(SELECT parent_job_id, child_job_id, on_failure FROM job_dependencies
    WHERE child_job_id = ANY ($2::uuid[]) AND project_id = $1
    LIMIT $3)
