-- The keys of all projects that are or were encrypted, for a node's memory. A project that is
-- encrypted but has no key must not be taken for one that is not: it comes with NULLs.
SELECT k.project_id, p.encrypted, k.id, k.number, k.master_id, k.wrapped
FROM project_keys k
JOIN projects p ON p.id = k.project_id
UNION ALL
SELECT p.id, p.encrypted, NULL, NULL, NULL, NULL
FROM projects p
WHERE p.encrypted AND NOT EXISTS (SELECT FROM project_keys k WHERE k.project_id = p.id)
