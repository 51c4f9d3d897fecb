-- Who read classified data, when, why, and how masked?
-- One row for each classified column of each read and each role it played. Change class and time in `asked`.
WITH asked AS (
  SELECT 'clinical' AS class, TIMESTAMP '2026-01-01T00:00:00Z' AS since
)
SELECT a.event_time, a.principal, a.purpose, a.ticket, a.environment, c.dataset, c.version, c.column_name,
       r.role, r.requested, r.rung, a.outcome, a.entry_id
FROM system.access.column_reads AS r
JOIN system.catalog.columns AS c ON c.node = r.node
JOIN system.access.audit AS a
  ON a.entry_id = r.entry_id AND a.dataset = c.dataset AND a.dataset_version = c.version
CROSS JOIN asked
WHERE array_has(c.classes, asked.class) AND a.decision = 'allow' AND a.event_time >= asked.since
ORDER BY a.event_time, a.entry_id, c.dataset, c.column_name, r.role;
