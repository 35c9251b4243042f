-- How long a step may wait for a table that others use, in milliseconds: whoever comes meanwhile
-- waits behind it.
SELECT set_config('lock_timeout', $1::text, false)
