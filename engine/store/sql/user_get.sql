-- With the organisation, so that a foreign id finds nothing.
SELECT id, organization_id, email, password_hash, role, created_at, token_version, disabled_at
FROM users
WHERE organization_id = $1 AND id = $2
