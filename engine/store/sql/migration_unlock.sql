-- Gives the lock of `migration_lock` back.
SELECT pg_advisory_unlock(hashtext('taskforge.migrations'))
