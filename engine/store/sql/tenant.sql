-- For whom the rest of the transaction acts, in one round trip. The settings say which rows the
-- policies let through; an empty one lets none. The role comes last: from then on they hold.
SELECT
    set_config('taskforge.organization_id', $1, true),
    set_config('taskforge.project_id', $2, true),
    set_config('role', 'taskforge_tenant', true)
