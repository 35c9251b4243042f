-- One organisation by its id.
SELECT id, name, billing_email, created_at FROM organizations WHERE id = $1
