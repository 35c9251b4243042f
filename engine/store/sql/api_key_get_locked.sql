-- The same, held to the end of the transaction: what the audit log calls `before` is what the
-- change found.
SELECT
    id, project_id, key_hash, name, permissions, last_used_at, expires_at, prefix, created_at,
    revoked_at
FROM api_keys
WHERE project_id = $1 AND id = $2
FOR UPDATE
