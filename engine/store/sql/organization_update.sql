-- The whole of what may change; the caller has read the row under a lock.
UPDATE organizations SET name = $2, billing_email = $3 WHERE id = $1
