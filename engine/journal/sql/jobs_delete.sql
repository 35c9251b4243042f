-- Finished jobs that the history of their queue does not keep, but that were written while open.
DELETE FROM jobs WHERE id = ANY($1::uuid[])
