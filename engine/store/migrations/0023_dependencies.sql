-- Room for dependencies
-- depends: 0022_schedules

-- migrate: apply

SELECT 1;

-- migrate: rollback
