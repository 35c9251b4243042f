-- An execution that succeeded is found by its id, which follows from its job
-- depends: 0030_entries_of_finished_jobs

-- migrate: apply

-- Why and at which cost: docs/decisions/0038-executions-by-job.md. Each index is built by one look
-- over its table.

-- Any question by job: in which ranges of blocks something of these jobs is.
DROP INDEX idx_job_executions_job_id;

CREATE INDEX idx_job_executions_job_id ON job_executions USING brin (job_id)
    WITH (pages_per_range = 32);

-- All attempts of a job but the one that succeeded, which is its last and has an id that is known.
CREATE INDEX job_executions_unsuccessful ON job_executions (job_id) WHERE status <> 'succeeded';

-- The same states as before, those first that most rows have: the list is gone through for each row.
ALTER TABLE jobs
    DROP CONSTRAINT jobs_status_known,
    ADD CONSTRAINT jobs_status_known CHECK (
        status IN ('succeeded', 'failed', 'pending', 'scheduled', 'processing', 'cancelled')) NOT VALID;

ALTER TABLE job_executions
    DROP CONSTRAINT job_executions_status_known,
    ADD CONSTRAINT job_executions_status_known CHECK (
        status IN ('succeeded', 'retrying', 'failed', 'started')) NOT VALID;

ALTER TABLE jobs VALIDATE CONSTRAINT jobs_status_known;

ALTER TABLE job_executions VALIDATE CONSTRAINT job_executions_status_known;

-- The product of two words of 64 bits, without what overflows.
CREATE FUNCTION word_product(word bit(64), factor bit(64)) RETURNS bit(64)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    modulus CONSTANT numeric := 18446744073709551616;
    product numeric := mod(
        mod(word::bigint::numeric + modulus, modulus)
            * mod(factor::bigint::numeric + modulus, modulus), modulus);
BEGIN
    RETURN (CASE WHEN product >= modulus / 2 THEN product - modulus ELSE product END)::bigint::bit(64);
END
$$;

-- The finalizer of splitmix64.
CREATE FUNCTION word_mixed(word bit(64)) RETURNS bit(64)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    word := word_product(word # (word >> 30), x'BF58476D1CE4E5B9');
    word := word_product(word # (word >> 27), x'94D049BB133111EB');
    RETURN word # (word >> 31);
END
$$;

-- The id of an attempt of a job, as ext/ids makes it.
CREATE FUNCTION execution_id(job_id uuid, attempt integer, started_at timestamptz) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    golden CONSTANT numeric := 11400714819323198485;
    modulus CONSTANT numeric := 18446744073709551616;
    digits text := replace(job_id::text, '-', '');
    high bit(64) := ('x' || left(digits, 16))::bit(64);
    low bit(64) := ('x' || right(digits, 16))::bit(64);
    seed numeric := mod(high::bigint::numeric + modulus + attempt * golden, modulus);
    mixed bit(64) := word_mixed(word_mixed(
        (CASE WHEN seed >= modulus / 2 THEN seed - modulus ELSE seed END)::bigint::bit(64)) # low);
BEGIN
    RETURN left(replace(uuid_floor(started_at)::text, '-', ''), 12) || substr(digits, 13, 4)
        || to_hex((B'10' || substring(high FROM 33 FOR 16) || substring(low FROM 3 FOR 20)
            || (attempt & 255)::bit(8) || substring(mixed FROM 1 FOR 18))::bit(64)::bigint);
END
$$;

-- All executions of a job of this row. To be asked a job at a time, by indexes.
CREATE FUNCTION executions_of(job_id uuid, attempts integer, started_at timestamptz)
RETURNS SETOF uuid LANGUAGE plpgsql STABLE ROWS 1 AS $$
BEGIN
    RETURN QUERY
        SELECT attempt.id FROM job_executions AS attempt
        WHERE attempt.job_id = executions_of.job_id AND attempt.status <> 'succeeded';
    IF started_at IS NOT NULL THEN
        RETURN QUERY
            SELECT attempt.id FROM job_executions AS attempt
            WHERE attempt.id = execution_id(executions_of.job_id, attempts, executions_of.started_at)
                AND attempt.status = 'succeeded';
    END IF;
END
$$;

-- migrate: rollback
