-- Synthetic data, made by `custody init --demo clinic`: no person behind any row.

CREATE SOURCE raw.patients (
  id BIGINT NOT NULL,
  name VARCHAR,
  national_id VARCHAR,
  postcode VARCHAR,
  birth_date DATE,
  sex VARCHAR,
  weight DOUBLE,
  height DOUBLE,
  region VARCHAR,
  consent BOOLEAN,
  registered_at TIMESTAMP NOT NULL
) FROM CSV 'raw/patients'
  ENTITY patient (id) EVENT TIME registered_at
  OWNER clinic
  COMMENT 'who is in the cohort';

CREATE SOURCE raw.labs (
  id BIGINT NOT NULL,
  ts TIMESTAMP NOT NULL,
  test VARCHAR NOT NULL,
  value DOUBLE,
  loaded_at TIMESTAMP NOT NULL
) FROM PARQUET 'raw/labs'
  ENTITY patient (id) EVENT TIME ts KNOWN TIME loaded_at
  OWNER clinic
  COMMENT 'laboratory results, long form';

CREATE SOURCE raw.diagnoses (
  id BIGINT NOT NULL,
  ts TIMESTAMP NOT NULL,
  code VARCHAR NOT NULL,
  loaded_at TIMESTAMP NOT NULL
) FROM PARQUET 'raw/diagnoses'
  ENTITY patient (id) EVENT TIME ts KNOWN TIME loaded_at
  OWNER clinic
  COMMENT 'coded diagnoses';

CREATE SOURCE raw.landmarks (
  id BIGINT NOT NULL,
  ts TIMESTAMP NOT NULL,
  died_2y BOOLEAN NOT NULL
) FROM PARQUET 'raw/landmarks'
  ENTITY patient (id) EVENT TIME ts
  OWNER clinic
  COMMENT 'yearly points in time, with what happened in the two years after';
