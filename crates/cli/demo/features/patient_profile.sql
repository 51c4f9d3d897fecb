-- One row a patient: carries the classes of what it is made of.
CREATE FEATURE VIEW features.patient_profile
  ENTITY patient (id) EVENT TIME ts
  OWNER hepatology
  COMMENT 'what is known of a patient at registration'
AS SELECT id, registered_at AS ts,
  name,
  national_id,
  birth_date,
  sex,
  weight / (height * height) AS bmi,
  postcode,
  region,
  consent
FROM raw.patients;
