-- Only for a person who is as the login saw them. The lock makes a change of the person wait, and
-- makes this wait for one that is under way: no session is opened behind a disabling.
WITH person AS (
    SELECT id, organization_id
    FROM users
    WHERE id = $2 AND token_version = $3 AND disabled_at IS NULL
    FOR SHARE
)
INSERT INTO user_sessions (id, organization_id, user_id, family_hash, token_hash, expires_at)
SELECT $1, organization_id, id, $4, $5, now() + make_interval(secs => $6::double precision)
FROM person
RETURNING id, organization_id, user_id, created_at, refreshed_at, expires_at
