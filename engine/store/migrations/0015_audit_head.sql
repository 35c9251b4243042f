-- Whose audit log may be continued
-- depends: 0014_queue_keys

-- migrate: apply

-- As before, but a tenant role for which no organisation was set comes to no log at all: nothing is
-- unequal to NULL, so that the question has to be asked the other way round.
CREATE OR REPLACE FUNCTION audit_head(organization uuid, OUT sequence bigint, OUT hash bytea,
    OUT at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- The owner's rights hold in here: a tenant comes no further than to its own log.
    IF (current_setting('role') = 'taskforge_tenant' OR tenant_organization() IS NOT NULL)
        AND tenant_organization() IS DISTINCT FROM organization
    THEN
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

-- Anybody may call a new function: here those who have something to record.
REVOKE EXECUTE ON FUNCTION audit_head(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION audit_head(uuid) TO taskforge_tenant, taskforge_engine;

-- migrate: rollback
