-- Workers that left; nothing is assigned to them, since the project has no queue.
DELETE FROM workers WHERE project_id = $1
