-- What handlers logged: whose a line is
-- depends: 0009_workers

-- migrate: apply

-- Nothing wrote to this table before. Ids are made of the id of the execution and the number of the
-- line (engine.model.execution.log_id): the primary key serves lists, and refuses a line that comes
-- twice. The project stands in each line, so that its policy needs no join.
ALTER TABLE execution_logs ADD COLUMN project_id uuid NOT NULL;

-- migrate: rollback
