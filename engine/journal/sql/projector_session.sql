-- The tables can be made again from the log, and what is trimmed from the log is trimmed by a later
-- commit, which the server writes behind these: so they need not wait for the disk.
SELECT set_config('statement_timeout', $1, false),
    set_config('idle_in_transaction_session_timeout', $1, false),
    set_config('synchronous_commit', 'off', false)
