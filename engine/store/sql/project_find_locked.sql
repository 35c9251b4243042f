-- The same, held to the end of the transaction: nothing is added to the project meanwhile.
SELECT id, organization_id, name, description, created_at
FROM projects
WHERE organization_id = $1 AND id = $2
FOR UPDATE
