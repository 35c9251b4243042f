-- Within the organisation: an id of another organisation is as good as unknown.
SELECT id, organization_id, name, description, created_at
FROM projects
WHERE organization_id = $1 AND id = $2
