-- Which migrations the database has; the table is made and kept by the migration library.
SELECT migration_id FROM public._pogo_migration ORDER BY migration_id
