-- A foreign key refuses a project of no organisation.
INSERT INTO projects (id, organization_id, name, description)
VALUES ($1, $2, $3, $4)
RETURNING id, organization_id, name, description, created_at
