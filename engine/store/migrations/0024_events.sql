-- Room for events
-- depends: 0023_dependencies

-- migrate: apply

SELECT 1;

-- migrate: rollback
