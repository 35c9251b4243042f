-- Organisations, their users and subscriptions, projects and API keys
-- depends:

-- migrate: apply

CREATE TABLE organizations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL CONSTRAINT organizations_name_given CHECK (btrim(name) <> ''),
    billing_email varchar(255) NOT NULL
        CONSTRAINT organizations_billing_email_form CHECK (billing_email LIKE '%_@_%'),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_organizations_created_at ON organizations (created_at);

CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    email varchar(255) NOT NULL UNIQUE CONSTRAINT users_email_form CHECK (email LIKE '%_@_%'),
    password_hash varchar(255) NOT NULL,
    role varchar(50) NOT NULL CONSTRAINT users_role_known CHECK (role IN ('admin', 'member')),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_users_organization_id ON users (organization_id);

CREATE TABLE subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    tier varchar(50) NOT NULL
        CONSTRAINT subscriptions_tier_known CHECK (tier IN ('starter', 'pro', 'enterprise')),
    limits jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT subscriptions_limits_object CHECK (jsonb_typeof(limits) = 'object'),
    current_period_end timestamptz NOT NULL
);

CREATE INDEX idx_subscriptions_organization_id ON subscriptions (organization_id);

CREATE TABLE projects (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    name varchar(255) NOT NULL CONSTRAINT projects_name_given CHECK (btrim(name) <> ''),
    description text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_projects_organization_id ON projects (organization_id);

-- The key itself is shown once and never stored.
CREATE TABLE api_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id uuid NOT NULL REFERENCES projects (id),
    key_hash varchar(255) NOT NULL UNIQUE,
    name varchar(255) NOT NULL CONSTRAINT api_keys_name_given CHECK (btrim(name) <> ''),
    permissions text[] NOT NULL DEFAULT '{}',
    last_used_at timestamptz,
    expires_at timestamptz
);

CREATE INDEX idx_api_keys_project_id ON api_keys (project_id);

-- migrate: rollback
