-- Windowed: means over the two years before each result.
CREATE FEATURE VIEW features.lab_trend
  ENTITY patient (id) EVENT TIME ts KNOWN TIME known_at
  OWNER hepatology
  COMMENT 'two-year means of lipids and FIB-4'
AS SELECT DISTINCT id, ts,
  max(loaded_at) OVER w AS known_at,
  avg(value) FILTER (WHERE test = 'hdl')  OVER w AS hdl_mean_2y,
  avg(value) FILTER (WHERE test = 'chol') OVER w AS chol_mean_2y,
  avg(value) FILTER (WHERE test = 'fib4') OVER w AS fib4_mean_2y,
  count(value) OVER w AS n_results_2y
FROM raw.labs
WINDOW w AS (PARTITION BY id ORDER BY ts RANGE BETWEEN INTERVAL '730 days' PRECEDING AND CURRENT ROW);
