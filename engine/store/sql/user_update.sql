-- What is null stays. The version grows, so that tokens which name the old state are refused.
UPDATE users
SET role = coalesce($3, role),
    disabled_at = CASE
        WHEN $4::boolean IS NULL THEN disabled_at
        WHEN $4 THEN coalesce(disabled_at, now())
    END,
    token_version = token_version + 1
WHERE organization_id = $1 AND id = $2
RETURNING id, organization_id, email, password_hash, role, created_at, token_version, disabled_at
