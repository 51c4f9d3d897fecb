-- From every feature column that was served back to the raw columns it was made of.
-- Each step follows an edge of the published lineage; `*` nodes carry which rows exist, so filters, joins and group keys
-- are on the way too. `kind` is DIRECT where the raw value itself flows into the feature.
WITH RECURSIVE served AS (
  SELECT DISTINCT r.node
  FROM system.access.column_reads AS r
  JOIN system.access.audit AS a ON a.entry_id = r.entry_id
  WHERE r.role = 'PROJECT' AND r.requested AND a.decision = 'allow' AND a.action IN ('read', 'serve')
),
up AS (
  SELECT s.node AS feature, s.node, CAST(0 AS BIGINT) AS hop, 'DIRECT' AS kind FROM served AS s
  UNION ALL
  -- DISTINCT: without it the paths of a diamond multiply.
  SELECT * FROM (
    SELECT DISTINCT up.feature, e.source_node, up.hop + 1,
           CASE WHEN up.kind = 'DIRECT' AND e.kind = 'DIRECT' THEN 'DIRECT' ELSE 'INDIRECT' END
    FROM up JOIN system.lineage.edges AS e ON e.target_node = up.node
    WHERE up.hop < 64
  )
)
SELECT f.dataset AS feature_view, f.version AS feature_version, f.column_name AS feature,
       min(up.hop) AS hop, min(up.kind) AS kind,
       c.dataset AS source, c.version AS source_version, c.column_name AS source_column, c.classes,
       v.identity AS source_snapshot, v.entry_id AS source_entry
FROM up
JOIN system.catalog.columns AS f ON f.node = up.feature
JOIN system.catalog.columns AS c ON c.node = up.node
JOIN system.catalog.datasets AS d ON d.dataset = c.dataset AND d.kind = 'source'
JOIN system.catalog.versions AS v ON v.dataset = c.dataset AND v.version = c.version
JOIN system.catalog.datasets AS g ON g.dataset = f.dataset AND g.kind <> 'source'
GROUP BY f.dataset, f.version, f.column_name, c.dataset, c.version, c.column_name, c.classes, v.identity, v.entry_id
ORDER BY feature_view, feature_version, feature, kind, hop, source, source_column;
