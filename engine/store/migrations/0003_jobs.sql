-- Jobs, their executions, logs and dependencies: the projection of the shard log
-- depends: 0002_queues_and_workers

-- migrate: apply

-- Rows are written in bulk by the projector, mostly once and in their final state. Columns stand in
-- the order of its binary COPY. Constraints cost per row, so only the lists of states and the range
-- of the priority stand here; ext.table keeps the rest.
-- Ids are UUIDv7 and carry their shard: there is no default for them. The time in them is the
-- partition key.
CREATE TABLE jobs (
    id uuid NOT NULL,
    queue_id uuid NOT NULL,
    project_id uuid NOT NULL,
    job_type varchar(255) NOT NULL,
    payload jsonb,
    status varchar(50) NOT NULL DEFAULT 'pending'
        CONSTRAINT jobs_status_known
        CHECK (status IN ('pending', 'scheduled', 'processing', 'succeeded', 'failed', 'cancelled')),
    priority integer NOT NULL DEFAULT 0
        CONSTRAINT jobs_priority_range CHECK (priority BETWEEN 0 AND 9),
    scheduled_for timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    shard smallint NOT NULL,
    lsn bigint NOT NULL,
    lease_lsn bigint,
    worker_id uuid,
    attempts smallint NOT NULL DEFAULT 0,
    crashes smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL DEFAULT 0,
    timeout_s double precision,
    deadline_at timestamptz,
    result jsonb,
    last_error jsonb,
    failed_reason varchar(50),
    idempotency_key varchar(255),
    unique_key varchar(255),
    group_key varchar(255),
    tags text[],
    waiting_on integer,
    cancel_reason text,
    history_until timestamptz,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX idx_jobs_status_scheduled_priority ON jobs (status, scheduled_for, priority);

-- With the id behind it, one index serves lists of a queue in id order too.
CREATE INDEX idx_jobs_queue_id ON jobs (queue_id, id);

-- Rows come in order of their creation: a block range index finds them for next to no cost a row.
CREATE INDEX idx_jobs_created_at ON jobs USING brin (created_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- What recovery loads, in the order in which a shard starts it.
CREATE INDEX jobs_unfinished ON jobs (shard, priority DESC, id)
    WHERE status IN ('pending', 'scheduled', 'processing');

CREATE TABLE jobs_default PARTITION OF jobs DEFAULT;

CREATE TABLE job_executions (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    worker_id uuid,
    status varchar(50) NOT NULL
        CONSTRAINT job_executions_status_known
        CHECK (status IN ('started', 'succeeded', 'failed', 'retrying')),
    output text,
    attempt_number integer NOT NULL DEFAULT 1,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    error jsonb,
    shard smallint NOT NULL,
    lsn bigint NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX idx_job_executions_job_id ON job_executions (job_id);

CREATE INDEX idx_job_executions_worker_id ON job_executions (worker_id);

CREATE TABLE job_executions_default PARTITION OF job_executions DEFAULT;

CREATE TABLE execution_logs (
    id uuid NOT NULL,
    execution_id uuid NOT NULL,
    level varchar(50) NOT NULL
        CONSTRAINT execution_logs_level_known CHECK (level IN ('info', 'warn', 'error')),
    message text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    logged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX idx_execution_logs_execution_id ON execution_logs (execution_id);

CREATE TABLE execution_logs_default PARTITION OF execution_logs DEFAULT;

CREATE TABLE job_dependencies (
    parent_job_id uuid NOT NULL,
    child_job_id uuid NOT NULL CONSTRAINT job_dependencies_no_self
        CHECK (child_job_id <> parent_job_id),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (parent_job_id, child_job_id)
);

CREATE INDEX idx_job_dependencies_child_job_id ON job_dependencies (child_job_id);

-- A check of each row would cost more than the row. Where the server can hold a foreign key without
-- checking it, it stands in the catalogue for people and tools; `taskforge check` proves it.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'ALTER TABLE jobs ADD CONSTRAINT jobs_queue_id_fkey
            FOREIGN KEY (queue_id) REFERENCES job_queues (id) NOT ENFORCED';
        EXECUTE 'ALTER TABLE job_executions ADD CONSTRAINT job_executions_job_id_fkey
            FOREIGN KEY (job_id) REFERENCES jobs (id) NOT ENFORCED';
        EXECUTE 'ALTER TABLE job_executions ADD CONSTRAINT job_executions_worker_id_fkey
            FOREIGN KEY (worker_id) REFERENCES workers (id) NOT ENFORCED';
        EXECUTE 'ALTER TABLE execution_logs ADD CONSTRAINT execution_logs_execution_id_fkey
            FOREIGN KEY (execution_id) REFERENCES job_executions (id) NOT ENFORCED';
        EXECUTE 'ALTER TABLE job_dependencies ADD CONSTRAINT job_dependencies_parent_job_id_fkey
            FOREIGN KEY (parent_job_id) REFERENCES jobs (id) NOT ENFORCED';
        EXECUTE 'ALTER TABLE job_dependencies ADD CONSTRAINT job_dependencies_child_job_id_fkey
            FOREIGN KEY (child_job_id) REFERENCES jobs (id) NOT ENFORCED';
    END IF;
END
$$;

-- migrate: rollback
