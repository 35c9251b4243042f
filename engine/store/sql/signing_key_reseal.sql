-- The same secret under the master key that seals now.
UPDATE signing_keys SET secret = $2 WHERE id = $1
