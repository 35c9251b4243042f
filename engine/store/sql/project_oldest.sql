-- The first project of an organisation, which the bootstrap made.
SELECT id, organization_id, name, description, created_at
FROM projects
WHERE organization_id = $1
ORDER BY created_at, id
LIMIT 1
