-- The whole of what may change; the caller has read the row under a lock.
UPDATE projects SET name = $3, description = $4 WHERE organization_id = $1 AND id = $2
