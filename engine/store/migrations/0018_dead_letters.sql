-- Room for dead_letters
-- depends: 0017_job_options

-- migrate: apply

SELECT 1;

-- migrate: rollback
