-- Readers that have a table wait behind whoever asks for all of it: better to ask again later.
SELECT set_config('lock_timeout', $1, false)
