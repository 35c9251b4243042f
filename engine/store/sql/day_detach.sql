-- False: it is needed by now.
SELECT detach_day($1)
