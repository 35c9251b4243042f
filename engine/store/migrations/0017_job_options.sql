-- Room for job_options
-- depends: 0016_projection_epochs

-- migrate: apply

SELECT 1;

-- migrate: rollback
