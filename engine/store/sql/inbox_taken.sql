-- Their jobs are durable in the log.
DELETE FROM inbox WHERE id = ANY ($1::uuid[])
