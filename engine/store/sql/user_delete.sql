-- Sessions go with the row.
DELETE FROM users
WHERE organization_id = $1 AND id = $2
