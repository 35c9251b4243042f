-- Who of these workers is drained; of all, without ids.
SELECT id FROM workers WHERE drained AND ($1::uuid[] IS NULL OR id = ANY ($1))
