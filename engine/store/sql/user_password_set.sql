-- Only where the password is still the one that was checked: of two changes at once one wins.
UPDATE users
SET password_hash = $4, token_version = token_version + 1
WHERE organization_id = $1 AND id = $2 AND password_hash = $3 AND disabled_at IS NULL
RETURNING id, organization_id, email, password_hash, role, created_at, token_version, disabled_at
