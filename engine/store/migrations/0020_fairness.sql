-- Room for fairness
-- depends: 0019_limits

-- migrate: apply

SELECT 1;

-- migrate: rollback
