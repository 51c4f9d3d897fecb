-- Who reads as `research` sees of `patients` what `patients_research` holds: the reference of every attack.
CREATE SOURCE raw.patients (id BIGINT NOT NULL, mrn VARCHAR, birth DATE, region VARCHAR, consent BOOLEAN, hba1c BIGINT,
                            note VARCHAR, score BIGINT, secret BIGINT, seen TIMESTAMP NOT NULL) FROM CSV 'raw/patients' ENTITY person (id)
  EVENT TIME seen;
CREATE SOURCE raw.patients_research (id BIGINT NOT NULL, mrn VARCHAR, birth DATE, region VARCHAR, hba1c BIGINT,
                                     note VARCHAR, score BIGINT, seen TIMESTAMP NOT NULL) FROM CSV 'raw/patients_research' ENTITY person (id)
  EVENT TIME seen;
CREATE SOURCE raw.visits (id BIGINT NOT NULL, kind VARCHAR, cost BIGINT, seen TIMESTAMP NOT NULL) FROM CSV 'raw/visits' ENTITY person (id)
  EVENT TIME seen;
CREATE SOURCE raw.staff (id BIGINT NOT NULL, name VARCHAR, seen TIMESTAMP NOT NULL) FROM CSV 'raw/staff' ENTITY person (id)
  EVENT TIME seen;
CREATE SOURCE raw.cohort (id BIGINT NOT NULL, person BIGINT, region VARCHAR, sex VARCHAR, hba1c BIGINT, score DOUBLE,
                          seen TIMESTAMP NOT NULL) FROM CSV 'raw/cohort' ENTITY person (id) EVENT TIME seen;
CREATE SOURCE raw.care (nurse VARCHAR NOT NULL, patient BIGINT NOT NULL, role VARCHAR, seen TIMESTAMP NOT NULL) FROM CSV 'raw/care'
  ENTITY person (patient) EVENT TIME seen;
