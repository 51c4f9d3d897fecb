-- Who read more than the mean + 3 standard deviations of their own previous 28 days?
-- Days without a read do not count; a principal needs two earlier days to have a deviation.
WITH days AS (
  SELECT principal, date_trunc('day', event_time) AS day, sum(rows) AS rows
  FROM system.access.audit
  WHERE part = 0 AND decision = 'allow' AND action IN ('read', 'serve', 'export') AND principal IS NOT NULL
  GROUP BY principal, date_trunc('day', event_time)
),
habits AS (
  SELECT d.principal, d.day, d.rows, avg(p.rows) AS mean, stddev(p.rows) AS deviation
  FROM days AS d
  JOIN days AS p ON p.principal = d.principal AND p.day < d.day AND p.day >= d.day - INTERVAL '28 days'
  GROUP BY d.principal, d.day, d.rows
)
SELECT principal, day, rows, mean, deviation
FROM habits
WHERE rows > mean + 3 * deviation
ORDER BY day, principal;
