-- The keys of a project, by id, after the last one of the page before; revoked ones too.
SELECT
    id, project_id, key_hash, name, permissions, last_used_at, expires_at, prefix, created_at,
    revoked_at
FROM api_keys
WHERE project_id = $1 AND id > $2
ORDER BY id
LIMIT $3
