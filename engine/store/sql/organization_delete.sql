-- Foreign keys refuse it while it has projects.
DELETE FROM organizations WHERE id = $1
