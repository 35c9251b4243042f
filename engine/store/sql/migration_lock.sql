-- Migrations run one node at a time. A lock of the session, since each file is a transaction of its
-- own; it goes with the connection if the node dies.
SELECT pg_advisory_lock(hashtext('taskforge.migrations'))
