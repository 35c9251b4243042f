-- The secret comes sealed where the installation has a master key.
INSERT INTO signing_keys (id, secret)
VALUES ($1, $2)
