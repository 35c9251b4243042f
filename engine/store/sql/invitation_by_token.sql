-- By its hash alone: who is invited belongs to no organisation yet.
SELECT id, organization_id, email, role, invited_by, created_at, expires_at
FROM invitations
WHERE token_hash = $1 AND expires_at > now()
