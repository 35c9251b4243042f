-- The address is unique in the whole installation: it alone says who logs in.
INSERT INTO users (id, organization_id, email, password_hash, role)
SELECT $1, $2, $3, $4, $5
WHERE (SELECT count(*) FROM users WHERE organization_id = $2) < $6::bigint
RETURNING id, organization_id, email, password_hash, role, created_at, token_version, disabled_at
