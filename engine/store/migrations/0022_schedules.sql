-- Room for schedules
-- depends: 0021_paging

-- migrate: apply

SELECT 1;

-- migrate: rollback
