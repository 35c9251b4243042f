-- How a connection of the journal works: its statement timeout, and plans that are made once, since
-- planning the append anew takes longer than the append.
SELECT set_config('statement_timeout', $1, false),
    set_config('idle_in_transaction_session_timeout', $1, false),
    set_config('plan_cache_mode', 'force_generic_plan', false)
