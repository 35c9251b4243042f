-- A token of this family that is not the newest was used again, or the session is over anyway.
DELETE FROM user_sessions
WHERE id = $1 AND family_hash = $2
RETURNING organization_id, user_id, token_hash
