-- The shard log, how far it is projected, and who owns what
-- depends: 0003_jobs

-- migrate: apply

-- Append-only, one row per shard and commit. The primary key is the fence: of two writers at one
-- lsn only one gets a row. Bodies are packed already: no attempt to compress them.
CREATE TABLE shard_log (
    shard smallint NOT NULL,
    lsn bigint NOT NULL,
    epoch bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    events integer NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (shard, lsn)
);

ALTER TABLE shard_log ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE shard_projection (
    shard smallint PRIMARY KEY,
    lsn bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- How many shards there are, and the owner each one had last; a hint for people, the log decides.
CREATE TABLE shards (
    shard smallint PRIMARY KEY CONSTRAINT shards_range CHECK (shard BETWEEN 0 AND 4095),
    node_id uuid,
    epoch bigint NOT NULL DEFAULT 0,
    taken_at timestamptz
);

CREATE TABLE nodes (
    id uuid PRIMARY KEY,
    name varchar(255) NOT NULL,
    address varchar(255) NOT NULL,
    version varchar(50) NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz
);

-- The ids that the first submit with a key got, in order: 16 bytes each.
CREATE TABLE idempotency_keys (
    project_id uuid NOT NULL,
    key varchar(255) NOT NULL,
    shard smallint NOT NULL,
    body_hash bytea NOT NULL,
    ids bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);

CREATE INDEX idx_idempotency_keys_shard_created_at ON idempotency_keys (shard, created_at);

-- Rows that the tables refused: kept apart, so that one bad row never stops a projection.
CREATE TABLE projection_errors (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard smallint NOT NULL,
    table_name varchar(63) NOT NULL,
    row bytea NOT NULL,
    error text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);

-- migrate: rollback
