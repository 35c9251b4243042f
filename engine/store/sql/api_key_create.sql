-- A key that is there already is left as it is; then no row comes back.
INSERT INTO api_keys (id, project_id, key_hash, prefix, name, permissions, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (key_hash) DO NOTHING
RETURNING
    id, project_id, key_hash, name, permissions, last_used_at, expires_at, prefix, created_at,
    revoked_at
