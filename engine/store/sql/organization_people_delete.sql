-- Who belonged to the organisation, what they were logged in with, and what it had paid for; their
-- access tokens, of every version, are refused. One statement: foreign keys are looked at when it
-- ends.
WITH invited AS (DELETE FROM invitations WHERE organization_id = $1),
    sessions AS (DELETE FROM user_sessions WHERE organization_id = $1),
    paid AS (DELETE FROM subscriptions WHERE organization_id = $1),
    gone AS (DELETE FROM users WHERE organization_id = $1 RETURNING id)
INSERT INTO token_revocations (subject, organization_id, version)
SELECT id, $1, 2147483647
FROM gone
ON CONFLICT (subject) DO UPDATE
SET version = excluded.version, revoked_at = clock_timestamp()
