-- The predictions of a partition including a run's staged rows: these, and the stored rows of all other keys.
-- Grain: one row per key.
-- Views: predicted, stored, newer, withdrawing
-- Withdrawn keys that are marked, or are about to be, have none.
SELECT p.* EXCLUDE (__key) FROM predicted AS p
UNION ALL BY NAME
SELECT s.* EXCLUDE (__key) FROM stored AS s
ANTI JOIN newer AS n ON n.__key = s.__key AND n.revision > s.revision
ANTI JOIN predicted AS p ON p.__key = s.__key
ANTI JOIN withdrawing AS w ON w.__key = s.__key
WHERE s.reason <> 'withdrawn'
