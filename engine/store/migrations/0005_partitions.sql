-- Daily partitions of jobs, job_executions and execution_logs
-- depends: 0004_log

-- migrate: apply

-- The least UUIDv7 of an instant: its milliseconds in the first 48 bits, nothing behind.
CREATE FUNCTION uuid_floor(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN rpad(lpad(to_hex(floor(extract(epoch FROM instant) * 1000)::bigint), 12, '0'), 32, '0')::uuid;

-- Make the partition of each day from first_day to last_day (UTC) that is missing; says how many.
-- A partition is filled with what the default partition has of its day, then attached: writers of
-- the table are not held up, but for those of the default partition, which is empty as a rule.
CREATE FUNCTION ensure_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    part text;
    day date;
    low uuid;
    high uuid;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('taskforge.partitions'));
    FOREACH parent IN ARRAY ARRAY['jobs', 'job_executions', 'execution_logs'] LOOP
        day := first_day;
        WHILE day <= last_day LOOP
            part := parent || '_p' || to_char(day, 'YYYYMMDD');
            IF to_regclass(part) IS NULL THEN
                low := uuid_floor(day::timestamp AT TIME ZONE 'UTC');
                high := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
                EXECUTE format(
                    'WITH moved AS (DELETE FROM %I WHERE id >= %L AND id < %L RETURNING *)
                    INSERT INTO %I SELECT * FROM moved', parent || '_default', low, high, part);
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

-- Drop the partitions of all days before first_kept (UTC), but for a day with unfinished jobs; says
-- how many. Logs and executions go first, so that no row outlives the one it belongs to.
CREATE FUNCTION drop_partitions(first_kept date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    part text;
    unfinished boolean;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('taskforge.partitions'));
    FOREACH parent IN ARRAY ARRAY['execution_logs', 'job_executions', 'jobs'] LOOP
        FOR part IN
            SELECT child.relname
            FROM pg_inherits
            JOIN pg_class child ON child.oid = inhrelid
            WHERE inhparent = parent::regclass
                AND child.relname ~ '_p[0-9]{8}$'
                AND to_date(right(child.relname, 8), 'YYYYMMDD') < first_kept
            ORDER BY child.relname
        LOOP
            unfinished := false;
            IF parent = 'jobs' THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM %I
                    WHERE status IN (''pending'', ''scheduled'', ''processing''))', part)
                    INTO unfinished;
            END IF;
            IF NOT unfinished THEN
                EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, part);
                EXECUTE format('DROP TABLE %I', part);
                dropped := dropped + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN dropped;
END
$$;

-- migrate: rollback
