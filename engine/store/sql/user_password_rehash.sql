-- The same password under stronger parameters: nothing that was given out changes its worth.
UPDATE users
SET password_hash = $3
WHERE id = $1 AND password_hash = $2
