-- A row that a table refused, as it was to be written.
INSERT INTO projection_errors (shard, table_name, row, error) VALUES ($1, $2, $3, $4)
