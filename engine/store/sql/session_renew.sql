-- A new refresh token without showing the old one, after the password was changed in the session.
UPDATE user_sessions
SET family_hash = $3, token_hash = $4, refreshed_at = now()
WHERE id = $1 AND user_id = $2
RETURNING id
