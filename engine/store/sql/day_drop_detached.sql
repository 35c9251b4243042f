-- The jobs of a day that was detached; nobody waits for it.
SELECT drop_detached_jobs($1, $2, $3)
