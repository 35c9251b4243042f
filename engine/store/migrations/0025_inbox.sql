-- Room for inbox
-- depends: 0024_events

-- migrate: apply

SELECT 1;

-- migrate: rollback
