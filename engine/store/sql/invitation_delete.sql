-- With the organisation, so that a foreign id finds nothing.
DELETE FROM invitations
WHERE organization_id = $1 AND id = $2
RETURNING id, organization_id, email, role, invited_by, created_at, expires_at
