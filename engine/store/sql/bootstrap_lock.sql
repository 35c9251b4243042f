-- Several nodes may bootstrap one database at a time: one of them does it. Held to the end of the
-- transaction.
SELECT pg_advisory_xact_lock(hashtext('taskforge.bootstrap'))
