-- What the clinic's columns are, which rows belong together, and how values are made coarser.
-- Features need no tags of their own: they carry the classes of the columns they are computed from.

CREATE CLASSIFICATION pii;
CREATE CLASSIFICATION identifier UNDER pii;   -- says who it is
CREATE CLASSIFICATION quasi UNDER pii;        -- helps to guess who it is
CREATE CLASSIFICATION clinical;

TAG COLUMN raw.patients.name, raw.patients.national_id AS identifier;
TAG COLUMN raw.patients.postcode, raw.patients.birth_date AS quasi;
-- `id` is the clinic's own number: it means nothing outside, and features are joined on it.
TAG COLUMN raw.patients.id, raw.patients.sex, raw.patients.weight, raw.patients.height, raw.patients.region,
           raw.patients.consent, raw.patients.registered_at AS clinical;
TAG COLUMN raw.labs.id, raw.labs.ts, raw.labs.test, raw.labs.value, raw.labs.loaded_at AS clinical;
TAG COLUMN raw.diagnoses.id, raw.diagnoses.ts, raw.diagnoses.code, raw.diagnoses.loaded_at AS clinical;
TAG COLUMN raw.landmarks.id, raw.landmarks.ts, raw.landmarks.died_2y AS clinical;

CREATE ROW SET everyone   ON raw.patients AS TRUE;
CREATE ROW SET eu         ON raw.patients AS region = 'eu';
CREATE ROW SET own_region ON raw.patients AS region IN (@region);
CREATE GUARD consented    ON raw.patients AS consent IS TRUE;

-- Row sets and guards belong to a dataset. A feature that shows region and consent is cut by them like its source.
CREATE ROW SET everyone   ON features.patient_profile AS TRUE;
CREATE ROW SET eu         ON features.patient_profile AS region = 'eu';
CREATE ROW SET own_region ON features.patient_profile AS region IN (@region);
CREATE GUARD consented    ON features.patient_profile AS consent IS TRUE;

CREATE MASK PARAMETERS FOR identifier (token = hmac(key 'research', domain 'person'), redact = null);
-- Ages and other numbers derived from quasi-identifiers are read in tens.
CREATE MASK PARAMETERS FOR quasi (partial = bucket(10));
CREATE MASK PARAMETERS FOR COLUMN raw.patients.birth_date (partial = year);
CREATE MASK PARAMETERS FOR COLUMN raw.patients.postcode (partial = first(4));
CREATE MASK PARAMETERS FOR COLUMN features.patient_profile.birth_date (partial = year);
CREATE MASK PARAMETERS FOR COLUMN features.patient_profile.postcode (partial = first(4));
