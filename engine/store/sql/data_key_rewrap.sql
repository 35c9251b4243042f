-- The same key under another master key, unless another process was quicker.
UPDATE project_keys SET master_id = $2, wrapped = $3, wrapped_at = now()
WHERE id = $1 AND master_id = $4
