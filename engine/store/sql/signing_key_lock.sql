-- Nodes that start together make one key.
SELECT pg_advisory_xact_lock(hashtext('taskforge.signing_keys'))
