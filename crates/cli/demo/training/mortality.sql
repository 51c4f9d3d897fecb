-- What the mortality model learns from: at each landmark, the newest laboratory means that were known by then.
CREATE TRAINING SET training.mortality
  SPINE ENTITY patient (id) EVENT TIME ts LABEL died_2y AS (
    SELECT id, ts, died_2y FROM raw.landmarks
  )
  FEATURES features.lab_trend.*
  SPLIT BY HASH (id) INTO train 80, test 20 SEED 7
  OWNER hepatology
  COMMENT 'death within two years, from laboratory means';
