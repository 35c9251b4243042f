-- Nothing yet.
SELECT 1;

-- migrate: rollback
