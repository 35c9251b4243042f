-- Commits wait for the disk, as everywhere: once a round is committed its jobs leave the memory of
-- the node, and a node that outlives a crash of the database would never write them again.
-- Rows are found by their primary key, however little the statistics know of a table that grows: no
-- other plan is good at any size. What is written goes to the disk at once: the system would gather
-- it for half a minute, and write it out in a burst of seconds for which every commit waits.
SELECT set_config('statement_timeout', $1, false),
    set_config('idle_in_transaction_session_timeout', $2, false),
    set_config('enable_hashjoin', 'off', false),
    set_config('enable_mergejoin', 'off', false),
    set_config('enable_seqscan', 'off', false),
    set_config('enable_bitmapscan', 'off', false),
    set_config('plan_cache_mode', 'force_custom_plan', false),
    set_config('jit', 'off', false),
    set_config('backend_flush_after', '512kB', false)
