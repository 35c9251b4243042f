-- Inviting again replaces the token, so that the one that was given before is no longer good.
INSERT INTO invitations (id, organization_id, email, role, token_hash, invited_by, expires_at)
SELECT $1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7::double precision)
WHERE (
    SELECT count(*) FROM invitations WHERE organization_id = $2 AND expires_at > now()
) < $8::bigint
ON CONFLICT (organization_id, email) DO UPDATE
SET id = excluded.id,
    role = excluded.role,
    token_hash = excluded.token_hash,
    invited_by = excluded.invited_by,
    created_at = now(),
    expires_at = excluded.expires_at
RETURNING id, organization_id, email, role, invited_by, created_at, expires_at
