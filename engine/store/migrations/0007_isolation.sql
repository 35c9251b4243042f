-- Row level security: the second wall between tenants
-- depends: 0006_identity

-- migrate: apply

-- Two roles that nobody logs in as. taskforge_tenant is who the API acts as: it sees the rows of one
-- tenant, named by settings of the transaction, and without them none. taskforge_engine may see all;
-- the owner of the tables belongs to it, since FORCE holds for the owner too.
-- Roles belong to the server, not to the database, so they may be there; several databases may be
-- migrated at once. Who may not make roles finds them made by an administrator.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['taskforge_tenant', 'taskforge_engine'] LOOP
        IF to_regrole(name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- Who made a role may administer it, but does not have its rights by that.
        IF NOT (pg_has_role(current_user, name, 'USAGE') AND pg_has_role(current_user, name, 'SET'))
        THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', name);
        END IF;
    END LOOP;
END
$$;

-- For whom the transaction acts; NULL for nobody, and nothing equals NULL.
CREATE FUNCTION tenant_organization() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('taskforge.organization_id', true), '')::uuid;

CREATE FUNCTION tenant_project() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('taskforge.project_id', true), '')::uuid;

-- Close a table: the tenant role has the given rights on the rows that meet the condition, which
-- holds for rows that it writes too. `copied`: the engine fills the table with COPY, which
-- PostgreSQL refuses wherever row security holds for the one who copies; so FORCE is left out where
-- the owner could not pass it. The tenant role is no owner: for it there is no difference.
CREATE PROCEDURE isolate(target regclass, rights text, condition text, copied boolean DEFAULT false)
LANGUAGE plpgsql AS $$
DECLARE
    passes boolean := (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user);
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    IF passes OR NOT copied THEN
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    END IF;
    EXECUTE format('CREATE POLICY tenant ON %s TO taskforge_tenant USING (%s)', target, condition);
    EXECUTE format('CREATE POLICY engine ON %s TO taskforge_engine USING (true)', target);
    EXECUTE format('GRANT %s ON %s TO taskforge_tenant', rights, target);
END
$$;

-- Keys are known by the beginning of their text; a revoked one stays in the list.
ALTER TABLE api_keys
    ADD COLUMN prefix varchar(16) NOT NULL DEFAULT '',
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN revoked_at timestamptz;

-- A deleted queue stays while its jobs are in the tables; its name is free at once.
ALTER TABLE job_queues ADD COLUMN archived_at timestamptz;

ALTER TABLE job_queues DROP CONSTRAINT job_queues_name_unique;

CREATE UNIQUE INDEX job_queues_name_unique ON job_queues (project_id, name)
    WHERE archived_at IS NULL;

-- Functions stand in sub-selects, so that they are asked once a statement and not once a row.
CALL isolate('organizations', 'SELECT, UPDATE', 'id = (SELECT tenant_organization())');

CALL isolate('users', 'SELECT, INSERT, UPDATE, DELETE',
    'organization_id = (SELECT tenant_organization())');

-- Sessions are opened by people who belong to no tenant yet; within one they end.
CALL isolate('user_sessions', 'SELECT, UPDATE, DELETE',
    'organization_id = (SELECT tenant_organization())');

CALL isolate('token_revocations', 'SELECT, INSERT, UPDATE',
    'organization_id = (SELECT tenant_organization())');

CALL isolate('invitations', 'SELECT, INSERT, UPDATE, DELETE',
    'organization_id = (SELECT tenant_organization())');

CALL isolate('subscriptions', 'SELECT', 'organization_id = (SELECT tenant_organization())');

CALL isolate('projects', 'SELECT, INSERT, UPDATE, DELETE',
    'organization_id = (SELECT tenant_organization()) OR id = (SELECT tenant_project())');

-- "In projects" means: in those that the tenant sees, since their policy holds in here too.
CALL isolate('api_keys', 'SELECT, INSERT, UPDATE, DELETE',
    'EXISTS (SELECT FROM projects WHERE projects.id = project_id)');

CALL isolate('job_queues', 'SELECT, INSERT, UPDATE, DELETE',
    'EXISTS (SELECT FROM projects WHERE projects.id = project_id)');

CALL isolate('workers', 'SELECT, INSERT, UPDATE, DELETE',
    'EXISTS (SELECT FROM projects WHERE projects.id = project_id)');

CALL isolate('queue_worker_assignments', 'SELECT, INSERT, UPDATE, DELETE',
    'EXISTS (SELECT FROM job_queues WHERE job_queues.id = queue_id)
    AND EXISTS (SELECT FROM workers WHERE workers.id = worker_id)');

-- What the engine writes, the tenant reads.
CALL isolate('jobs', 'SELECT', 'project_id = (SELECT tenant_project())', copied => true);

CALL isolate('job_executions', 'SELECT',
    'EXISTS (SELECT FROM jobs WHERE jobs.id = job_id)', copied => true);

CALL isolate('execution_logs', 'SELECT',
    'EXISTS (SELECT FROM job_executions WHERE job_executions.id = execution_id)', copied => true);

CALL isolate('job_dependencies', 'SELECT, INSERT, DELETE',
    'EXISTS (SELECT FROM jobs WHERE jobs.id = parent_job_id)
    AND EXISTS (SELECT FROM jobs WHERE jobs.id = child_job_id)');

CALL isolate('idempotency_keys', 'SELECT', 'project_id = (SELECT tenant_project())');

-- migrate: rollback
