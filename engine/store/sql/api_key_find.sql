-- By the hash alone: the tenant comes from the credential, never from the request.
SELECT
    id, project_id, key_hash, name, permissions, last_used_at, expires_at, prefix, created_at,
    revoked_at
FROM api_keys
WHERE key_hash = $1
