-- What subscriptions allow and what was used
-- depends: 0007_isolation

-- migrate: apply

SELECT 1;

-- migrate: rollback
