"""What things are: ids, jobs, executions, queues, workers, tenants, retries. Pure."""
