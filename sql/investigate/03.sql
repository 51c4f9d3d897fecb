-- What depends on this source column, directly or through which rows exist?
-- All versions of the column are followed. Change the column in `asked`.
WITH RECURSIVE asked AS (
  SELECT 'raw.labs' AS dataset, 'value' AS column_name
),
down AS (
  SELECT c.node, CAST(0 AS BIGINT) AS hop, 'DIRECT' AS kind
  FROM system.catalog.columns AS c JOIN asked ON c.dataset = asked.dataset AND c.column_name = asked.column_name
  UNION ALL
  -- DISTINCT: without it the paths of a diamond multiply.
  SELECT * FROM (
    SELECT DISTINCT e.target_node, down.hop + 1,
           CASE WHEN down.kind = 'DIRECT' AND e.kind = 'DIRECT' THEN 'DIRECT' ELSE 'INDIRECT' END
    FROM down JOIN system.lineage.edges AS e ON e.source_node = down.node
    WHERE down.hop < 64
  )
)
SELECT min(down.hop) AS hop, min(down.kind) AS kind, c.dataset, c.version, c.column_name, c.classes,
       d.kind AS dataset_kind, d.owner
FROM down
JOIN system.catalog.columns AS c ON c.node = down.node
JOIN system.catalog.datasets AS d ON d.dataset = c.dataset
WHERE down.hop > 0
GROUP BY c.dataset, c.version, c.column_name, c.classes, d.kind, d.owner
ORDER BY hop, c.dataset, c.version, c.column_name;
