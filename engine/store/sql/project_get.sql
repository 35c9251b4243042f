-- One project by its id.
SELECT id, organization_id, name, description, created_at FROM projects WHERE id = $1
