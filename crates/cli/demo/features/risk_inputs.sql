-- Built on other features.
CREATE FEATURE VIEW features.risk_inputs
  ENTITY patient (id) EVENT TIME ts
  OWNER hepatology
  COMMENT 'inputs of the mortality model'
AS SELECT t.id, t.ts,
  t.hdl_mean_2y / nullif(t.chol_mean_2y, 0) AS lipid_ratio,
  t.fib4_mean_2y,
  p.bmi,
  coalesce(b.n_diagnoses, 0) AS n_diagnoses,
  coalesce(b.has_fatty_liver, FALSE) AS has_fatty_liver
FROM features.lab_trend AS t
JOIN features.patient_profile AS p ON p.id = t.id
LEFT JOIN features.diagnosis_burden AS b ON b.id = t.id;
