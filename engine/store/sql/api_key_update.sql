-- The whole of what may change; the caller has read the row under a lock.
UPDATE api_keys
SET name = $3, permissions = $4, expires_at = $5, revoked_at = $6
WHERE project_id = $1 AND id = $2
