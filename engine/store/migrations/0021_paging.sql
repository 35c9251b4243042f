-- Room for paging
-- depends: 0020_fairness

-- migrate: apply

SELECT 1;

-- migrate: rollback
