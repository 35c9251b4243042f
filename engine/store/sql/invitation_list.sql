-- In the order of addresses, after the last one of the page before.
SELECT id, organization_id, email, role, invited_by, created_at, expires_at
FROM invitations
WHERE organization_id = $1 AND email > $2 AND expires_at > now()
ORDER BY email
LIMIT $3
