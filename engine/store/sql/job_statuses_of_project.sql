-- The same of one project.
SELECT id, status FROM jobs WHERE id = ANY ($2::uuid[]) AND project_id = $1
