-- In portions, so that no statement is long.
DELETE FROM invitations
WHERE id IN (SELECT id FROM invitations WHERE expires_at <= now() LIMIT $1)
