-- In the order of addresses, after the last one of the page before: addresses are unique.
SELECT id, organization_id, email, password_hash, role, created_at, token_version, disabled_at
FROM users
WHERE organization_id = $1 AND email > $2
ORDER BY email
LIMIT $3
