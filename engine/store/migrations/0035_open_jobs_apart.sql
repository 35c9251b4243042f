-- Jobs that have not ended stand in a table of their own, beside the days of those that have
-- depends: 0034_indexes_of_unfinished_jobs

-- migrate: apply

-- Why and at which cost: docs/decisions/0042-open-jobs-apart.md. Open jobs are moved, and the days of
-- ended ones are looked over once.
--
--     jobs ──► jobs_open     what waits or runs, whenever it came
--         '──► jobs_ended ──► jobs_p20261123, …, jobs_default     by the time in the id
--
-- A job is in one of them. No key spans both, for the key of a partitioned table has to have in it what
-- it is parted by: who writes a row deletes the one before it.
--
-- All that is changed is locked first, as readers of attempts and edges lock it: these, then jobs, where
-- their policies look.
LOCK TABLE ONLY job_executions, ONLY job_dependencies, ONLY jobs IN ACCESS EXCLUSIVE MODE;

ALTER TABLE jobs RENAME TO jobs_ended;

ALTER TABLE jobs_ended RENAME CONSTRAINT jobs_pkey TO jobs_ended_pkey;

ALTER TABLE jobs_ended DROP CONSTRAINT IF EXISTS jobs_queue_id_fkey;

ALTER INDEX idx_jobs_status_scheduled_priority RENAME TO idx_jobs_ended_status_scheduled_priority;

ALTER INDEX idx_jobs_queue_id RENAME TO idx_jobs_ended_queue_id;

ALTER INDEX idx_jobs_created_at RENAME TO idx_jobs_ended_created_at;

ALTER INDEX jobs_dead RENAME TO jobs_ended_dead;

ALTER INDEX jobs_dead_lsn RENAME TO jobs_ended_dead_lsn;

DROP INDEX jobs_bound, jobs_pending, jobs_scheduled, jobs_running;

CREATE TABLE jobs (LIKE jobs_ended INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY LIST ((finished_at IS NULL));

CREATE TABLE jobs_open (
    LIKE jobs_ended INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CONSTRAINT jobs_open_pkey PRIMARY KEY (id),
    CONSTRAINT jobs_open_status CHECK (status IN ('pending', 'scheduled', 'processing'))
);

-- No version wrote such rows; people may have.
UPDATE jobs_ended SET finished_at = updated_at
WHERE finished_at IS NULL AND status IN ('succeeded', 'failed', 'cancelled');

WITH moved AS (DELETE FROM jobs_ended WHERE finished_at IS NULL RETURNING *)
INSERT INTO jobs_open SELECT * FROM moved;

ALTER TABLE jobs ATTACH PARTITION jobs_open FOR VALUES IN (true);

ALTER TABLE jobs ATTACH PARTITION jobs_ended FOR VALUES IN (false);

-- Those of all jobs; what jobs_ended has of them becomes their part.
CREATE INDEX idx_jobs_status_scheduled_priority ON jobs (status, scheduled_for, priority)
    WHERE status <> 'succeeded';

CREATE INDEX idx_jobs_queue_id ON jobs (queue_id, id) WITH (deduplicate_items = off);

CREATE INDEX idx_jobs_created_at ON jobs USING brin (created_at) WITH (pages_per_range = 32);

CREATE INDEX jobs_dead ON jobs (queue_id, finished_at, id)
    WHERE failed_reason IS NOT NULL AND status = 'failed';

CREATE INDEX jobs_dead_lsn ON jobs (queue_id, lsn, id)
    WHERE failed_reason IS NOT NULL AND status = 'failed';

-- Those of open jobs: one for each way in which a node comes for them.
CREATE INDEX jobs_bound ON jobs_open (shard)
    WHERE status IN ('pending', 'scheduled')
        AND (options IS NOT NULL OR (status = 'scheduled' AND scheduled_for IS NULL));

CREATE INDEX jobs_pending ON jobs_open (shard, queue_id, job_type, (9 - priority), id)
    WHERE status = 'pending';

CREATE INDEX jobs_scheduled ON jobs_open (shard, scheduled_for, id) WHERE status = 'scheduled';

CREATE INDEX jobs_running ON jobs_open (shard) WHERE status = 'processing';

DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'ALTER TABLE jobs ADD CONSTRAINT jobs_queue_id_fkey
            FOREIGN KEY (queue_id) REFERENCES job_queues (id) NOT ENFORCED';
    END IF;
END
$$;

-- Row security holds for the table that is named, and nobody names a part but the engine.
DROP POLICY tenant ON jobs_ended;

DROP POLICY engine ON jobs_ended;

ALTER TABLE jobs_ended NO FORCE ROW LEVEL SECURITY;

ALTER TABLE jobs_ended DISABLE ROW LEVEL SECURITY;

REVOKE ALL ON jobs_ended FROM taskforge_tenant;

CALL isolate('jobs', 'SELECT', 'project_id = (SELECT tenant_project())', copied => true);

-- These looked into the table that has another name now.
DROP POLICY tenant ON job_executions;

CREATE POLICY tenant ON job_executions TO taskforge_tenant
    USING (EXISTS (SELECT FROM jobs WHERE jobs.id = job_id));

DROP POLICY tenant ON job_dependencies;

CREATE POLICY tenant ON job_dependencies TO taskforge_tenant
    USING (project_id = (SELECT tenant_project()))
    WITH CHECK (project_id = (SELECT tenant_project())
        AND EXISTS (SELECT FROM jobs WHERE jobs.id = parent_job_id)
        AND EXISTS (SELECT FROM jobs WHERE jobs.id = child_job_id));

-- As before, but that the days of jobs are those of ended ones. Writers of the table wait for a new day: a
-- statement that was planned without it would not find what moves there.
CREATE OR REPLACE FUNCTION ensure_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    name text;
    part text;
    day date;
    low uuid;
    high uuid;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('taskforge.partitions'));
    FOREACH parent IN ARRAY ARRAY['jobs_ended', 'job_executions', 'execution_logs'] LOOP
        name := CASE parent WHEN 'jobs_ended' THEN 'jobs' ELSE parent END;
        day := first_day;
        WHILE day <= last_day LOOP
            part := name || '_p' || to_char(day, 'YYYYMMDD');
            IF to_regclass(part) IS NULL THEN
                low := uuid_floor(day::timestamp AT TIME ZONE 'UTC');
                high := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
                EXECUTE format('LOCK TABLE ONLY %I IN SHARE ROW EXCLUSIVE MODE', name);
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name || '_default');
                EXECUTE format(
                    'WITH moved AS (DELETE FROM %I WHERE id >= %L AND id < %L RETURNING *)
                    INSERT INTO %I SELECT * FROM moved', name || '_default', low, high, part);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    parent, part, low, high);
                made := made + 1;
            END IF;
            day := day + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- The ended jobs of a day that have to stay: their organisation keeps those of then, or they belong to
-- nobody who is known. Null: kept for ever.
DROP FUNCTION jobs_to_keep(regclass, uuid[], timestamptz[], integer);

CREATE FUNCTION jobs_to_keep(
    part regclass, organizations uuid[], kept_since timestamptz[], most integer) RETURNS SETOF jobs
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT job.* FROM %s AS job
        LEFT JOIN (
            SELECT queue.id, keeper.since
            FROM unnest($1, $2) AS keeper (organization_id, since)
            JOIN projects AS project ON project.organization_id = keeper.organization_id
            JOIN job_queues AS queue ON queue.project_id = project.id
        ) AS queue ON queue.id = job.queue_id
        WHERE queue.since IS NULL OR job.finished_at >= queue.since
        LIMIT $3', part) USING organizations, kept_since, most;
END
$$;

-- What indexes know of a day that has to stay: a job of it that has not ended, whose attempts may be in
-- it, or an attempt of a job of another day that is still there. Few attempts run on another day than
-- their job came.
CREATE OR REPLACE FUNCTION day_is_needed(day date) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    low uuid := uuid_floor(day::timestamp AT TIME ZONE 'UTC');
    high uuid := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
    found boolean;
BEGIN
    EXECUTE format(
        'SELECT EXISTS (
            SELECT FROM jobs_open WHERE id >= $1 AND id < $2
        ) OR EXISTS (
            SELECT FROM %I AS attempt
            WHERE (attempt.job_id < $1 OR attempt.job_id >= $2)
                AND EXISTS (SELECT FROM jobs WHERE jobs.id = attempt.job_id)
        )', 'job_executions_p' || to_char(day, 'YYYYMMDD')) INTO found USING low, high;
    RETURN found;
END
$$;

CREATE OR REPLACE FUNCTION detach_day(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    suffix text := '_p' || to_char(day, 'YYYYMMDD');
BEGIN
    IF NOT (SELECT relispartition FROM pg_class WHERE oid = to_regclass('jobs' || suffix)) THEN
        RETURN true;
    END IF;
    -- The tables before their parts, as whoever writes does: else two might wait for each other.
    LOCK TABLE ONLY jobs, ONLY jobs_ended, ONLY job_executions, ONLY execution_logs
        IN ACCESS EXCLUSIVE MODE;
    IF day_is_needed(day) THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER TABLE execution_logs DETACH PARTITION %I', 'execution_logs' || suffix);
    EXECUTE format('ALTER TABLE job_executions DETACH PARTITION %I', 'job_executions' || suffix);
    EXECUTE format('ALTER TABLE jobs_ended DETACH PARTITION %I', 'jobs' || suffix);
    EXECUTE format('DROP TABLE %I, %I', 'execution_logs' || suffix, 'job_executions' || suffix);
    RETURN true;
END
$$;

-- Drop the jobs that were taken out. One that ran again while its day was looked at goes back first,
-- unless it is open once more: nobody writes while that is decided.
CREATE OR REPLACE FUNCTION drop_detached_jobs(
    day date, organizations uuid[], kept_since timestamptz[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part regclass := to_regclass('jobs_p' || to_char(day, 'YYYYMMDD'));
BEGIN
    CREATE TEMPORARY TABLE kept ON COMMIT DROP AS
        SELECT * FROM jobs_to_keep(part, organizations, kept_since, NULL);
    LOCK TABLE ONLY jobs IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO jobs SELECT * FROM kept
        WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = kept.id);
    EXECUTE format('DROP TABLE %s', part);
END
$$;

-- migrate: rollback
