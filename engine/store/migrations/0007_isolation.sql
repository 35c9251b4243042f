-- Row level security: the second wall between tenants
-- depends: 0006_identity

-- migrate: apply

SELECT 1;

-- migrate: rollback
