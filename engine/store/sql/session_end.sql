-- With the person, so that nobody ends the session of somebody else.
DELETE FROM user_sessions
WHERE id = $1 AND user_id = $2
RETURNING id
