-- All organisations, by id, after the last one of the page before: for the operator.
SELECT id, name, billing_email, created_at FROM organizations WHERE id > $1 ORDER BY id LIMIT $2
