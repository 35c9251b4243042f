-- What handlers logged: whose a line is
-- depends: 0009_workers

-- migrate: apply

-- Nothing wrote to this table before. Ids are made of the id of the execution and the number of the
-- line (engine.model.execution.log_id): the primary key serves lists, and refuses a line that comes
-- twice. The project stands in each line, so that its policy needs no join.
ALTER TABLE execution_logs ADD COLUMN project_id uuid NOT NULL;

-- Lines may be read before their execution and their job are in the tables.
DROP POLICY tenant ON execution_logs;

CREATE POLICY tenant ON execution_logs TO taskforge_tenant
    USING (project_id = (SELECT tenant_project()));

-- migrate: rollback
