-- Room for limits
-- depends: 0018_dead_letters

-- migrate: apply

SELECT 1;

-- migrate: rollback
