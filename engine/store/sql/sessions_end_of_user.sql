-- All of a person's but one, which may be none.
DELETE FROM user_sessions
WHERE user_id = $1 AND id IS DISTINCT FROM $2
