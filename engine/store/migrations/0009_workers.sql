-- What people want of workers
-- depends: 0008_usage

-- migrate: apply

SELECT 1;

-- migrate: rollback
