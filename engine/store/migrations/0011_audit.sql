-- The audit log
-- depends: 0010_logs

-- migrate: apply

-- Append-only, one chain an organisation: see engine/model/audit.py. `before` and `after` are json,
-- not jsonb: it keeps the text that was hashed. No foreign key: the log outlives what it tells of.
CREATE TABLE audit_log (
    organization_id uuid NOT NULL,
    sequence bigint NOT NULL CONSTRAINT audit_log_sequence_positive CHECK (sequence > 0),
    at timestamptz NOT NULL,
    actor_kind varchar(50) NOT NULL,
    actor_id uuid,
    address varchar(255) NOT NULL,
    correlation_id varchar(255) NOT NULL,
    action varchar(255) NOT NULL,
    target varchar(255) NOT NULL,
    before json,
    after json,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (organization_id, sequence)
);

CREATE INDEX idx_audit_log_target ON audit_log (organization_id, target, sequence);

-- Where each log ends: a log that lost its last entries no longer reaches its head.
CREATE TABLE audit_heads (
    organization_id uuid PRIMARY KEY,
    sequence bigint NOT NULL,
    hash bytea NOT NULL CONSTRAINT audit_heads_hash_length CHECK (octet_length(hash) = 32)
);

-- The end of the log, held to the end of the transaction, and the time. Acts of one organisation
-- thus come one after the other, and a sequence without gaps costs no retries.
CREATE FUNCTION audit_head(organization uuid, OUT sequence bigint, OUT hash bytea,
    OUT at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- The owner's rights hold in here: a tenant comes no further than to its own log.
    IF tenant_organization() <> organization THEN
        RAISE EXCEPTION 'the audit log of another organization'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO audit_heads (organization_id, sequence, hash)
    VALUES (organization, 0, decode(repeat('00', 32), 'hex'))
    ON CONFLICT DO NOTHING;
    SELECT head.sequence, head.hash INTO audit_head.sequence, audit_head.hash
    FROM audit_heads head WHERE head.organization_id = organization FOR UPDATE;
    audit_head.at := clock_timestamp();
END
$$;

-- Only what follows the head may be added; the head moves with it.
CREATE FUNCTION audit_append() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE audit_heads SET sequence = NEW.sequence, hash = NEW.hash
    WHERE organization_id = NEW.organization_id
        AND sequence = NEW.sequence - 1 AND hash = NEW.previous_hash;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'entry % of the audit log does not follow its head', NEW.sequence
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION audit_refuse() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

-- A head begins at nothing and moves by the log alone.
CREATE FUNCTION audit_guard_head() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (TG_OP = 'INSERT' AND NEW.sequence <> 0) OR (TG_OP = 'UPDATE' AND pg_trigger_depth() < 2)
    THEN
        RAISE EXCEPTION 'the head of the audit log moves by its entries alone'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER audit_log_append BEFORE INSERT ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_append();

CREATE TRIGGER audit_log_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

CREATE TRIGGER audit_heads_guard BEFORE INSERT OR UPDATE ON audit_heads
    FOR EACH ROW EXECUTE FUNCTION audit_guard_head();

CREATE TRIGGER audit_heads_refuse BEFORE DELETE OR TRUNCATE ON audit_heads
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

CALL isolate('audit_log', 'SELECT, INSERT', 'organization_id = (SELECT tenant_organization())');

CALL isolate('audit_heads', 'SELECT', 'organization_id = (SELECT tenant_organization())');

-- migrate: rollback
