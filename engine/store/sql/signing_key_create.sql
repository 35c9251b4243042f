-- The secret comes sealed.
INSERT INTO signing_keys (id, secret)
VALUES ($1, $2)
