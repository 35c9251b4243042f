-- Jobs that applications write in their own transactions
-- depends: 0023_dependencies

-- migrate: apply

-- A row is a job that its transaction committed and that no shard has taken yet. Its id is the
-- Idempotency-Key under which it is taken, so that a row that is met twice makes one job.
CREATE TABLE inbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number bigint GENERATED ALWAYS AS IDENTITY,
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    queue_id uuid NOT NULL REFERENCES job_queues (id) ON DELETE CASCADE,
    shard smallint NOT NULL,
    job_type text NOT NULL,
    payload text NOT NULL,
    options jsonb NOT NULL DEFAULT '{}',
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    retry_at timestamptz,
    refused_at timestamptz,
    problem text
);

CREATE INDEX inbox_waiting ON inbox (coalesce(retry_at, enqueued_at), number)
    WHERE refused_at IS NULL;

CREATE INDEX inbox_refused ON inbox (project_id, number) WHERE refused_at IS NOT NULL;

CALL isolate('inbox', 'SELECT', 'project_id = (SELECT tenant_project())');

-- Which roles of the server may write jobs of which project.
CREATE TABLE inbox_grants (
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    role_name name NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, role_name)
);

CALL isolate('inbox_grants', 'SELECT',
    'EXISTS (SELECT FROM projects WHERE projects.id = project_id)');

-- What applications see: this schema and the one function in it.
CREATE SCHEMA taskforge;

-- With the rights of the owner: the caller has none on the tables. Who he is says session_user, the
-- role that logged in, which neither SET ROLE nor this function changes.
-- `project` must be given by a role that may write jobs of several.
CREATE FUNCTION taskforge.enqueue(
    queue text,
    job_type text,
    payload jsonb DEFAULT '{}',
    options jsonb DEFAULT '{}',
    project uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    granted uuid[];
    target record;
    made uuid;
BEGIN
    SELECT array_agg(DISTINCT g.project_id) INTO granted
    FROM inbox_grants g JOIN pg_roles r ON r.rolname = g.role_name
    WHERE pg_has_role(session_user, r.oid, 'MEMBER')
        AND (enqueue.project IS NULL OR g.project_id = enqueue.project);
    IF granted IS NULL THEN
        RAISE EXCEPTION 'role % may not enqueue jobs%', session_user,
            coalesce(' of project ' || enqueue.project, '')
            USING ERRCODE = 'insufficient_privilege',
            HINT = 'an operator allows it: taskforge inbox grant PROJECT ROLE';
    END IF;
    IF cardinality(granted) > 1 THEN
        RAISE EXCEPTION 'project: role % may enqueue jobs of several, say of which', session_user
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT q.id, q.shard, p.encrypted INTO target
    FROM job_queues q JOIN projects p ON p.id = q.project_id
    WHERE q.project_id = granted[1] AND q.name = enqueue.queue AND q.archived_at IS NULL;
    IF target.id IS NULL THEN
        RAISE EXCEPTION 'queue: the project has no queue "%"', enqueue.queue
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF target.encrypted THEN
        RAISE EXCEPTION 'the project is encrypted: its payloads may not stand in a table as they are'
            USING ERRCODE = 'feature_not_supported', HINT = 'submit over HTTP';
    END IF;
    IF coalesce(octet_length(enqueue.job_type), 0) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'job_type: 1 to 255 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(enqueue.payload::text) > 1048576 THEN
        RAISE EXCEPTION 'payload: % bytes, at most 1048576', octet_length(enqueue.payload::text)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(coalesce(enqueue.options, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'options: an object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(enqueue.options::text) > 65536 THEN
        RAISE EXCEPTION 'options: % bytes, at most 65536', octet_length(enqueue.options::text)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO inbox (project_id, queue_id, shard, job_type, payload, options)
    VALUES (granted[1], target.id, target.shard, enqueue.job_type,
        coalesce(enqueue.payload, '{}')::text, coalesce(enqueue.options, '{}'))
    RETURNING id INTO made;
    PERFORM pg_notify('taskforge_inbox', '');
    RETURN made;
END
$$;

REVOKE ALL ON FUNCTION taskforge.enqueue FROM PUBLIC;

-- Whom the last grant leaves keeps a right on a function that refuses him.
CREATE PROCEDURE inbox_allow(project uuid, role_name name)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA taskforge TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION taskforge.enqueue TO %I', role_name);
    INSERT INTO inbox_grants (project_id, role_name) VALUES (project, role_name)
    ON CONFLICT DO NOTHING;
END
$$;

-- migrate: rollback
