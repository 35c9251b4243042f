-- Never: the row stays, with the reason, until somebody decides.
UPDATE inbox SET refused_at = now(), problem = $2 WHERE id = $1
