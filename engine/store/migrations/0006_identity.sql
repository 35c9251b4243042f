-- Sessions, invitations and what logging in needs
-- depends: 0005_partitions

-- migrate: apply

SELECT 1;

-- migrate: rollback
