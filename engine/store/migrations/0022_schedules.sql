-- Schedules: jobs that are made again and again, at the ticks of a cron expression
-- depends: 0021_paging

-- migrate: apply

-- `job` is what a caller gives of a job but for its payload, which stands apart: it is sealed in
-- encrypted projects. `decided_at` is up to where it is decided which ticks had a job and which had
-- none; what comes after it is still to do, whoever owns the queue's shard. `revision` grows with
-- every change by people, and is how nodes notice it.
-- What a tick changes stands in no index, and the rows leave room: such updates stay in their page.
CREATE TABLE cron_schedules (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL REFERENCES projects (id),
    queue_id uuid NOT NULL REFERENCES job_queues (id),
    name varchar(255) NOT NULL CHECK (name <> ''),
    cron varchar(255) NOT NULL,
    timezone varchar(64) NOT NULL,
    job jsonb NOT NULL,
    payload jsonb NOT NULL,
    catch_up varchar(10) NOT NULL CHECK (catch_up IN ('skip', 'latest', 'all')),
    window_s integer NOT NULL CHECK (window_s > 0),
    overlap varchar(20) NOT NULL CHECK (overlap IN ('allow', 'skip', 'cancel_previous')),
    jitter_s integer NOT NULL CHECK (jitter_s >= 0),
    paused_at timestamptz,
    decided_at timestamptz NOT NULL,
    next_at timestamptz,
    last_tick timestamptz,
    last_job_id uuid,
    last_problem varchar(64),
    revision bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    creation_key varchar(255),
    creation_hash bytea,
    CONSTRAINT cron_schedules_name_unique UNIQUE (project_id, name)
) WITH (fillfactor = 50);

CREATE INDEX idx_cron_schedules_queue ON cron_schedules (queue_id);

CREATE UNIQUE INDEX idx_cron_schedules_creation_key ON cron_schedules (project_id, creation_key)
    WHERE creation_key IS NOT NULL;

CALL isolate('cron_schedules', 'SELECT, INSERT, UPDATE, DELETE',
    'EXISTS (SELECT FROM job_queues WHERE job_queues.id = queue_id
        AND job_queues.project_id = cron_schedules.project_id)');

-- Keys of ticks are forgotten long before those of callers: see idempotency_keys_of_ticks_expire.
CREATE INDEX idx_idempotency_keys_ticks ON idempotency_keys (created_at) WHERE key LIKE 'cron %';

-- migrate: rollback
