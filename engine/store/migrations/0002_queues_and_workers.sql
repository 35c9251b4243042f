-- Queues, workers, and which worker serves which queue
-- depends: 0001_tenants

-- migrate: apply

-- shard: given at creation from a hash of the id, and stored, so that no queue ever moves because
-- the number of shards was changed.
CREATE TABLE job_queues (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL REFERENCES projects (id),
    name varchar(255) NOT NULL CONSTRAINT job_queues_name_given CHECK (btrim(name) <> ''),
    priority integer NOT NULL DEFAULT 0
        CONSTRAINT job_queues_priority_range CHECK (priority BETWEEN 0 AND 9),
    settings jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT job_queues_settings_object CHECK (jsonb_typeof(settings) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    shard smallint NOT NULL CONSTRAINT job_queues_shard_range CHECK (shard BETWEEN 0 AND 4095),
    CONSTRAINT job_queues_name_unique UNIQUE (project_id, name)
);

CREATE TABLE workers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL REFERENCES projects (id),
    name varchar(255) NOT NULL CONSTRAINT workers_name_given CHECK (btrim(name) <> ''),
    type varchar(50) NOT NULL DEFAULT 'general'
        CONSTRAINT workers_type_known
        CHECK (type IN ('general', 'specialized_cpu', 'specialized_io')),
    status varchar(50) NOT NULL DEFAULT 'offline'
        CONSTRAINT workers_status_known CHECK (status IN ('online', 'offline', 'draining')),
    last_heartbeat timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_workers_last_heartbeat ON workers (last_heartbeat);

CREATE INDEX idx_workers_project_id ON workers (project_id);

CREATE TABLE queue_worker_assignments (
    queue_id uuid NOT NULL REFERENCES job_queues (id),
    worker_id uuid NOT NULL REFERENCES workers (id),
    weight integer NOT NULL DEFAULT 1
        CONSTRAINT queue_worker_assignments_weight_range CHECK (weight BETWEEN 1 AND 1000),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_id, worker_id)
);

CREATE INDEX idx_queue_worker_assignments_worker_id ON queue_worker_assignments (worker_id);

-- migrate: rollback
