-- The id is the caller's, so that a repeated attempt is recognised.
INSERT INTO organizations (id, name, billing_email)
VALUES ($1, $2, $3)
RETURNING id, name, billing_email, created_at
