-- Whether the user can take the role of tenants and, unless it passes all row security, belongs to
-- the engine; and whether row security would refuse its COPY into a table that the engine fills. A
-- backup of a database holds no roles: where it was restored they may be missing.
SELECT
    to_regrole('taskforge_tenant') IS NOT NULL
        AND (rolsuper OR coalesce(
            pg_has_role(rolname, to_regrole('taskforge_tenant')::oid, 'MEMBER')
                AND (rolbypassrls
                    OR pg_has_role(rolname, to_regrole('taskforge_engine')::oid, 'USAGE')),
            false))
        AS acts_for_tenants,
    row_security_active('jobs') AS copies_blocked
FROM pg_roles
WHERE rolname = current_user
