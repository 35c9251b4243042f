-- NULL in an empty database: the table of `migrations_applied` comes with the first migration.
SELECT to_regclass('public._pogo_migration')
