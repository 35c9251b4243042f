-- The same secret under another master key.
UPDATE signing_keys SET secret = $2 WHERE id = $1
