CREATE CLASSIFICATION money;
TAG COLUMN clinic.wards.cost AS money;
CREATE ROW SET open    ON clinic.wards AS open;
CREATE ROW SET all     ON clinic.wards AS TRUE;
CREATE GUARD named     ON clinic.wards AS ward IS NOT NULL;
CREATE GUARD affordable ON clinic.wards AS cost < 1000;
CREATE GROUP FLOOR 20 ON clinic.wards COUNTING patient;
CREATE MASK PARAMETERS FOR money (partial = bucket(100), redact = const(0));
CREATE MASK PARAMETERS FOR COLUMN clinic.wards.note (partial = last(4));
