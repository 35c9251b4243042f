-- What people want of workers
-- depends: 0008_usage

-- migrate: apply

-- drained: the worker gets no new jobs, wherever it connects, until that is taken back. The status
-- says what is; this says what is wanted, so it outlives connections and nodes.
ALTER TABLE workers ADD COLUMN drained boolean NOT NULL DEFAULT false;

-- Nodes read all of them at their start and now and then; they are few.
CREATE INDEX idx_workers_drained ON workers (id) WHERE drained;

-- Who falls silent is looked for every few seconds, among those that are there.
CREATE INDEX idx_workers_connected ON workers (last_heartbeat) WHERE status <> 'offline';

-- In the order of the list.
DROP INDEX idx_workers_project_id;

CREATE INDEX idx_workers_project_id ON workers (project_id, id);

-- An assignment is nothing without its queue and its worker, and keeps neither of them alive.
ALTER TABLE queue_worker_assignments
    DROP CONSTRAINT queue_worker_assignments_queue_id_fkey,
    DROP CONSTRAINT queue_worker_assignments_worker_id_fkey,
    ADD CONSTRAINT queue_worker_assignments_queue_id_fkey
        FOREIGN KEY (queue_id) REFERENCES job_queues (id) ON DELETE CASCADE,
    ADD CONSTRAINT queue_worker_assignments_worker_id_fkey
        FOREIGN KEY (worker_id) REFERENCES workers (id) ON DELETE CASCADE;

-- migrate: rollback
