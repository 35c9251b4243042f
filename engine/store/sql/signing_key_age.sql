-- Of the newest one in seconds; null when there is none.
SELECT extract(epoch FROM clock_timestamp() - max(created_at))::double precision
FROM signing_keys
