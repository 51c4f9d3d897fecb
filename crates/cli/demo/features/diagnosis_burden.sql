-- Aggregated over a join.
CREATE FEATURE VIEW features.diagnosis_burden
  ENTITY patient (id) EVENT TIME ts
  OWNER hepatology
  COMMENT 'how many diagnoses a patient has, and of which kinds'
AS SELECT p.id,
  max(d.ts) AS ts,
  count(*) AS n_diagnoses,
  count(DISTINCT d.code) AS n_codes,
  bool_or(d.code = 'K76.0') AS has_fatty_liver
FROM raw.patients AS p
JOIN raw.diagnoses AS d ON d.id = p.id
GROUP BY p.id;
