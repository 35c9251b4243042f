-- In portions, so that no statement is long.
DELETE FROM user_sessions
WHERE id IN (SELECT id FROM user_sessions WHERE expires_at <= now() LIMIT $1)
