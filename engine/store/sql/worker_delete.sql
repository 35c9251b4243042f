-- Nothing is assigned to it: that was looked at in the same transaction.
DELETE FROM workers WHERE project_id = $1 AND id = $2
