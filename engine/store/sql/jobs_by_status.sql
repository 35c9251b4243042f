-- How many jobs there are in each state; reads all of them, so it is for people, not for programs.
SELECT status, count(*) AS jobs FROM jobs GROUP BY status ORDER BY status
