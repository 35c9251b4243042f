-- Dependencies: which job waits for which, and what the failure of the parent means
-- depends: 0022_schedules

-- migrate: apply

-- The rows are written with those of the jobs, by the projector. What belongs to nobody was made by
-- hand in a database of before.
ALTER TABLE job_dependencies
    ADD COLUMN project_id uuid,
    ADD COLUMN on_failure varchar(16) NOT NULL DEFAULT 'block'
        CONSTRAINT job_dependencies_on_failure_known
        CHECK (on_failure IN ('block', 'cancel', 'run_anyway'));

UPDATE job_dependencies AS edge
SET project_id = job.project_id
FROM jobs AS job
WHERE job.id = edge.child_job_id;

DELETE FROM job_dependencies WHERE project_id IS NULL;

ALTER TABLE job_dependencies ALTER COLUMN project_id SET NOT NULL;

-- From a child to its parents in the order of their ids, page by page; the primary key has the other
-- way.
CREATE INDEX job_dependencies_by_child ON job_dependencies (child_job_id, parent_job_id);

DROP INDEX idx_job_dependencies_child_job_id;

-- A graph is read by thousands of edges: the project stands in the edge, so that no job is looked up
-- for each. Who writes must name jobs of his own.
DROP POLICY tenant ON job_dependencies;

CREATE POLICY tenant ON job_dependencies TO taskforge_tenant
    USING (project_id = (SELECT tenant_project()))
    WITH CHECK (project_id = (SELECT tenant_project())
        AND EXISTS (SELECT FROM jobs WHERE jobs.id = parent_job_id)
        AND EXISTS (SELECT FROM jobs WHERE jobs.id = child_job_id));

-- migrate: rollback
