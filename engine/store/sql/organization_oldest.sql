-- The organisation that the bootstrap made: nobody can have made one before it.
SELECT id, name, billing_email, created_at FROM organizations ORDER BY created_at, id LIMIT 1
