-- Attempts that their workers gave back
-- depends: 0012_vault

-- migrate: apply

-- Neither failures nor crashes; NULL is none. A row that has none takes no byte for it.
ALTER TABLE jobs ADD COLUMN returns smallint;

-- migrate: rollback
