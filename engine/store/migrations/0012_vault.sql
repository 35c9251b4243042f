-- Keys of encrypted projects
-- depends: 0011_audit

-- migrate: apply

SELECT 1;

-- migrate: rollback
