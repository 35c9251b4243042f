-- Of any organisation: who logs in names none.
SELECT id, organization_id, email, password_hash, role, created_at, token_version, disabled_at
FROM users
WHERE email = $1
