-- Commits wait for the disk, as everywhere: once a round is committed its jobs leave the memory of
-- the node, and a node that outlives a crash of the database would never write them again.
SELECT set_config('statement_timeout', $1, false),
    set_config('idle_in_transaction_session_timeout', $2, false)
