-- What each master key wraps: whoever wants to take one away looks here first.
SELECT master_id, count(*) AS keys, count(DISTINCT project_id) AS projects
FROM project_keys
GROUP BY master_id
ORDER BY master_id
