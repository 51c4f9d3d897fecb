-- Is every read recorded, and how much of the ledger is signed?
-- `missing` entries must be 0; `unsigned` ones lie above the newest checkpoint; `pending` reads have no outcome yet,
-- `unknown` ones lost theirs in a crash and count their last byte grant.
WITH held AS (
  SELECT writer, count(*) AS entries, min(seq) AS first_seq FROM system.ledger.entries GROUP BY writer
),
signed AS (
  SELECT w.writer, max(c.tree_size) AS tree_size
  FROM system.ledger.writers AS w
  JOIN system.ledger.checkpoints AS c ON ends_with(c.origin, concat('/sha3-256/', w.writer))
  GROUP BY w.writer
),
reads AS (
  SELECT writer, count(*) AS reads,
         count(*) FILTER (WHERE outcome = 'pending') AS pending,
         count(*) FILTER (WHERE outcome = 'unknown') AS unknown
  FROM system.access.audit
  WHERE part = 0 AND action IN ('read', 'serve', 'export')
  GROUP BY writer
)
SELECT w.writer, w.state, w.head_seq, w.head_seq + 1 - h.first_seq - h.entries AS missing,
       w.head_seq + 1 - coalesce(s.tree_size, 0) AS unsigned,
       coalesce(r.reads, 0) AS reads, coalesce(r.pending, 0) AS pending, coalesce(r.unknown, 0) AS unknown
FROM system.ledger.writers AS w
LEFT JOIN held AS h ON h.writer = w.writer
LEFT JOIN signed AS s ON s.writer = w.writer
LEFT JOIN reads AS r ON r.writer = w.writer
ORDER BY w.writer;
