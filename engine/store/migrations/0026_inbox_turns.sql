-- Projects take turns in the inbox
-- depends: 0025_inbox

-- migrate: apply

DROP INDEX inbox_waiting;

-- Whoever looks goes from project to project, and takes the oldest rows of each.
CREATE INDEX inbox_waiting ON inbox (project_id, coalesce(retry_at, enqueued_at), number)
    WHERE refused_at IS NULL;

-- The hint named a command that there is not.
DO $$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('taskforge.enqueue(text, text, jsonb, jsonb, uuid)'::regprocedure),
        'taskforge inbox grant', 'taskforge inbox allow'
    );
END
$$;

-- migrate: rollback
