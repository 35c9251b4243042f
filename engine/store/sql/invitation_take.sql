-- Gone with the first who accepts it; a second finds nothing.
DELETE FROM invitations
WHERE token_hash = $1 AND expires_at > now()
RETURNING id, organization_id, email, role, invited_by, created_at, expires_at
