-- The projects of an organisation, by id, after the last one of the page before.
SELECT id, organization_id, name, description, created_at
FROM projects
WHERE organization_id = $1 AND id > $2
ORDER BY id
LIMIT $3
