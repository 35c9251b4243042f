-- What handlers logged
-- depends: 0009_workers

-- migrate: apply

SELECT 1;

-- migrate: rollback
