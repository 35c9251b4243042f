-- Keys of encrypted projects
-- depends: 0011_audit

-- migrate: apply

-- What comes in is sealed while this holds; what was sealed before can be read either way.
ALTER TABLE projects ADD COLUMN encrypted boolean NOT NULL DEFAULT false;

CREATE INDEX idx_projects_encrypted ON projects (id) WHERE encrypted;

-- Data keys, each wrapped by a master key that is in no table. The one with the greatest number
-- seals, all of them open. With a project its keys go, and with them what they sealed, backups
-- included.
CREATE TABLE project_keys (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    number integer NOT NULL CONSTRAINT project_keys_number_counts CHECK (number > 0),
    master_id varchar(64) NOT NULL,
    wrapped bytea NOT NULL
        CONSTRAINT project_keys_wrapped_length CHECK (octet_length(wrapped) = 60),
    created_at timestamptz NOT NULL DEFAULT now(),
    wrapped_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, number)
);

-- For the engine alone: no tenant has a right on it, not even to see its own.
ALTER TABLE project_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE project_keys FORCE ROW LEVEL SECURITY;

CREATE POLICY engine ON project_keys TO taskforge_engine USING (true);

-- Changes with the keys, so that nodes need not read them all to see that nothing is new.
CREATE TABLE encryption_version (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT encryption_version_one_row CHECK (only_row),
    version bigint NOT NULL DEFAULT 1
);

INSERT INTO encryption_version DEFAULT VALUES;

ALTER TABLE encryption_version ENABLE ROW LEVEL SECURITY;

ALTER TABLE encryption_version FORCE ROW LEVEL SECURITY;

CREATE POLICY engine ON encryption_version TO taskforge_engine USING (true);

-- With the rights of the owner: a project is deleted by the role of its tenant.
CREATE FUNCTION encryption_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE encryption_version SET version = version + 1;
    RETURN NULL;
END
$$;

CREATE TRIGGER project_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON project_keys
    FOR EACH STATEMENT EXECUTE FUNCTION encryption_changed();

CREATE TRIGGER projects_encrypted_changed AFTER UPDATE OF encrypted ON projects
    FOR EACH STATEMENT EXECUTE FUNCTION encryption_changed();

-- migrate: rollback
