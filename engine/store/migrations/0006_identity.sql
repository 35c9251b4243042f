-- Sessions, invitations and what logging in needs
-- depends: 0005_partitions

-- migrate: apply

-- Tokens that carry an older version are no longer good: another role, another password, disabled.
ALTER TABLE users
    ADD COLUMN token_version integer NOT NULL DEFAULT 1
        CONSTRAINT users_token_version_counts CHECK (token_version > 0),
    ADD COLUMN disabled_at timestamptz;

-- One login. It has one good refresh token at a time; its secrets are known as hashes only. The
-- family's is the part that all refresh tokens of the session share: who shows it with another
-- rest shows one that was used before.
CREATE TABLE user_sessions (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    family_hash bytea NOT NULL
        CONSTRAINT user_sessions_family_hash_length CHECK (octet_length(family_hash) = 32),
    token_hash bytea NOT NULL
        CONSTRAINT user_sessions_token_hash_length CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT user_sessions_expire_later CHECK (expires_at > created_at)
);

CREATE INDEX idx_user_sessions_user_id ON user_sessions (user_id, created_at);
CREATE INDEX idx_user_sessions_organization_id ON user_sessions (organization_id);
CREATE INDEX idx_user_sessions_expires_at ON user_sessions (expires_at);

-- Which access tokens are refused before they expire: those of a session, or those of a user with
-- a smaller version. Rows outlive what they speak of, and go when the last such token has expired.
CREATE TABLE token_revocations (
    subject uuid PRIMARY KEY,
    organization_id uuid NOT NULL,
    version integer NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX idx_token_revocations_revoked_at ON token_revocations (revoked_at);

-- Who is asked to join; the row goes when the invitation is accepted or taken back.
CREATE TABLE invitations (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    email varchar(255) NOT NULL CONSTRAINT invitations_email_form CHECK (email LIKE '%_@_%'),
    role varchar(50) NOT NULL
        CONSTRAINT invitations_role_known CHECK (role IN ('admin', 'member')),
    token_hash bytea NOT NULL UNIQUE
        CONSTRAINT invitations_token_hash_length CHECK (octet_length(token_hash) = 32),
    invited_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    UNIQUE (organization_id, email)
);

CREATE INDEX idx_invitations_expires_at ON invitations (expires_at);

-- What access tokens are signed with: the newest signs, all verify. No tenant's.
CREATE TABLE signing_keys (
    id varchar(64) PRIMARY KEY,
    secret text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- migrate: rollback
