-- Within the project. The id is the partition key: one partition is read.
SELECT * FROM execution_logs WHERE id = $1 AND project_id = $2
