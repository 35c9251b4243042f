-- The audit log
-- depends: 0010_logs

-- migrate: apply

SELECT 1;

-- migrate: rollback
