-- The keys go with their project.
DELETE FROM api_keys WHERE project_id = $1 RETURNING id
