-- Whether something of the day has to stay.
SELECT day_is_kept($1, $2, $3)
