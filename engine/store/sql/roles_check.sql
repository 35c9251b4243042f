-- Whether the user can take the role of tenants and, unless it passes all row security, belongs to
-- the engine; and whether row security would refuse its COPY into a table that the engine fills.
SELECT
    rolsuper OR (pg_has_role(rolname, 'taskforge_tenant', 'SET')
        AND (rolbypassrls OR pg_has_role(rolname, 'taskforge_engine', 'USAGE')))
        AS acts_for_tenants,
    row_security_active('jobs') AS copies_blocked
FROM pg_roles
WHERE rolname = current_user
