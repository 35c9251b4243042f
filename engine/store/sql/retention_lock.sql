-- One node at a time; the lock goes with the connection.
SELECT pg_try_advisory_lock(hashtext('taskforge.retention'))
