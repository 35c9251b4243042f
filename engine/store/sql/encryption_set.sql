-- The caller has read the row under a lock.
UPDATE projects SET encrypted = $2 WHERE id = $1
