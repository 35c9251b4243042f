-- Finished jobs past their days leave by whole partitions
-- depends: 0025_inbox

-- migrate: apply

-- It knew no plans, and left attempts that ran on another day than their job came.
DROP FUNCTION drop_partitions(date);

-- To take a part out of a table that others refer to, the server reads them all, although it never
-- checked their references: `taskforge check` proves these.
ALTER TABLE job_executions DROP CONSTRAINT IF EXISTS job_executions_job_id_fkey;

ALTER TABLE execution_logs DROP CONSTRAINT IF EXISTS execution_logs_execution_id_fkey;

ALTER TABLE job_dependencies
    DROP CONSTRAINT IF EXISTS job_dependencies_parent_job_id_fkey,
    DROP CONSTRAINT IF EXISTS job_dependencies_child_job_id_fkey;

-- The jobs of a day that have to stay: they have not ended, or they have since the moment from which
-- their organisation keeps them; and what belongs to nobody who is known. Null: kept for ever.
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
        WHERE queue.since IS NULL OR job.finished_at IS NULL OR job.finished_at >= queue.since
            OR job.status IN (''pending'', ''scheduled'', ''processing'')
        LIMIT $3', part) USING organizations, kept_since, most;
END
$$;

-- What indexes know of a day that has to stay: a job that has not ended, or an attempt of a job of
-- another day that is still there. Few attempts run on another day than their job came.
CREATE FUNCTION day_is_needed(day date) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format(
        'SELECT EXISTS (
            SELECT FROM %I WHERE status IN (''pending'', ''scheduled'', ''processing'')
        ) OR EXISTS (
            SELECT FROM %I AS attempt
            WHERE (attempt.job_id < $1 OR attempt.job_id >= $2)
                AND EXISTS (SELECT FROM jobs WHERE jobs.id = attempt.job_id)
        )', 'jobs_p' || to_char(day, 'YYYYMMDD'), 'job_executions_p' || to_char(day, 'YYYYMMDD'))
        INTO found
        USING uuid_floor(day::timestamp AT TIME ZONE 'UTC'),
            uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
    RETURN found;
END
$$;

-- Whether something of a day has to stay. What indexes know is asked first: reading all of a day is
-- for those days that will go.
CREATE FUNCTION day_is_kept(day date, organizations uuid[], kept_since timestamptz[])
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    part regclass := to_regclass('jobs_p' || to_char(day, 'YYYYMMDD'));
    kept boolean;
BEGIN
    IF NOT (SELECT relispartition FROM pg_class WHERE oid = part) THEN
        RETURN false;
    END IF;
    IF day_is_needed(day) THEN
        RETURN true;
    END IF;
    EXECUTE format(
        'SELECT EXISTS (
            SELECT FROM unnest($1, $2) AS keeper (organization_id, since)
            JOIN projects AS project ON project.organization_id = keeper.organization_id
            JOIN job_queues AS queue ON queue.project_id = project.id
            WHERE (keeper.since IS NULL OR keeper.since < $3)
                AND EXISTS (SELECT FROM %s AS job WHERE job.queue_id = queue.id)
        )', part) INTO kept
        USING organizations, kept_since, (day + 1)::timestamp AT TIME ZONE 'UTC';
    RETURN kept OR EXISTS (SELECT FROM jobs_to_keep(part, organizations, kept_since, 1));
END
$$;

-- Take a day out of the tables, unless it is needed by now: attempts and lines for good, jobs so that
-- they can be looked at once more while nobody waits. What is written for the day from here on goes to
-- the default partition. Says whether it is out.
CREATE FUNCTION detach_day(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    suffix text := '_p' || to_char(day, 'YYYYMMDD');
    parent text;
BEGIN
    IF NOT (SELECT relispartition FROM pg_class WHERE oid = to_regclass('jobs' || suffix)) THEN
        RETURN true;
    END IF;
    -- The tables before their parts, as whoever writes does: else two might wait for each other.
    LOCK TABLE ONLY jobs, ONLY job_executions, ONLY execution_logs IN ACCESS EXCLUSIVE MODE;
    IF day_is_needed(day) THEN
        RETURN false;
    END IF;
    FOREACH parent IN ARRAY ARRAY['execution_logs', 'job_executions', 'jobs'] LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, parent || suffix);
    END LOOP;
    EXECUTE format('DROP TABLE %I, %I', 'execution_logs' || suffix, 'job_executions' || suffix);
    RETURN true;
END
$$;

-- Drop the jobs that were taken out. One that ran again while its day was looked at goes back first.
CREATE FUNCTION drop_detached_jobs(day date, organizations uuid[], kept_since timestamptz[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part regclass := to_regclass('jobs_p' || to_char(day, 'YYYYMMDD'));
BEGIN
    INSERT INTO jobs SELECT * FROM jobs_to_keep(part, organizations, kept_since, NULL)
        ON CONFLICT (id) DO NOTHING;
    EXECUTE format('DROP TABLE %s', part);
END
$$;

-- migrate: rollback
