-- One organisation by its id, held to the end of the transaction.
SELECT id, name, billing_email, created_at FROM organizations WHERE id = $1 FOR UPDATE
