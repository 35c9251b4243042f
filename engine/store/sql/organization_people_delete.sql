-- Who belonged to the organisation, what they were logged in with, and what it had paid for. One
-- statement: foreign keys are looked at when it ends.
WITH invited AS (DELETE FROM invitations WHERE organization_id = $1),
    sessions AS (DELETE FROM user_sessions WHERE organization_id = $1),
    paid AS (DELETE FROM subscriptions WHERE organization_id = $1)
DELETE FROM users WHERE organization_id = $1
