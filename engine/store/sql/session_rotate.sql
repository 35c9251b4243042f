-- The token must be the newest of its session: a row comes back for one caller only. `users` is
-- read without a lock: a token made of an older state of it carries an older version, and is refused.
UPDATE user_sessions
SET token_hash = $4,
    refreshed_at = now(),
    expires_at = now() + make_interval(secs => $5::double precision)
FROM users
WHERE user_sessions.id = $1
    AND user_sessions.family_hash = $2
    AND user_sessions.token_hash = $3
    AND user_sessions.expires_at > now()
    AND users.id = user_sessions.user_id
    AND users.disabled_at IS NULL
RETURNING users.id, users.organization_id, users.email, users.password_hash, users.role,
    users.created_at, users.token_version, users.disabled_at
