-- Whoever changes what an organisation may use, or makes what is counted, does so one at a time.
SELECT id FROM organizations WHERE id = $1 FOR UPDATE
