-- Within the project: an id of another project is as good as unknown.
SELECT
    id, project_id, key_hash, name, permissions, last_used_at, expires_at, prefix, created_at,
    revoked_at
FROM api_keys
WHERE project_id = $1 AND id = $2
