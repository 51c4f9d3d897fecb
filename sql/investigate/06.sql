-- Who was denied, then allowed within five minutes under another purpose?
-- A denial names no dataset (it may be of something that must not be confirmed), so what was allowed is listed.
SELECT d.principal, d.purpose AS denied_purpose, a.purpose AS allowed_purpose, a.event_time - d.event_time AS gap,
       d.code, a.dataset, a.dataset_version, a.rows, d.entry_id AS denied_entry, a.entry_id AS allowed_entry
FROM system.access.audit AS d
JOIN system.access.audit AS a
  ON a.principal = d.principal AND a.purpose <> d.purpose
 AND a.event_time >= d.event_time AND a.event_time <= d.event_time + INTERVAL '5 minutes'
WHERE d.action = 'deny' AND a.decision = 'allow' AND a.action IN ('read', 'serve', 'export')
ORDER BY d.event_time, a.event_time, d.entry_id, a.entry_id, a.part;
