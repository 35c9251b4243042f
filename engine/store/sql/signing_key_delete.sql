-- After a theft: what these keys signed is good no longer.
DELETE FROM signing_keys
