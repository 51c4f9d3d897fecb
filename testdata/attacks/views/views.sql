-- Plain views over what `research` sees a part of. Those that end in `_research` are over the stored copy of that part.
CREATE VIEW views.invoked AS SELECT id, mrn, birth, region, hba1c, note, score, seen FROM raw.patients WHERE score < 100;
CREATE VIEW views.invoked_research AS SELECT id, mrn, birth, region, hba1c, note, score, seen FROM raw.patients_research WHERE score < 100;
-- On one that needs a column which `research` does not have.
CREATE VIEW views.beyond AS SELECT id, secret FROM raw.patients;
-- Nobody but engineers has a right to it.
CREATE VIEW views.private AS SELECT id FROM raw.visits;
-- With the rights of the role that owns it: raw values of all rows, as the text picks them.
CREATE VIEW views.defined DEFINER OWNER engineer AS
  SELECT id, mrn, region, hba1c, score, secret, seen, secret * 2 AS twice FROM raw.patients WHERE consent AND score <> 12;
CREATE VIEW views.defined_research AS SELECT id, mrn, region, hba1c, score, seen FROM raw.patients_research WHERE score <> 12;
-- What fails for rows that a reader of the view does not see.
CREATE VIEW views.failing DEFINER OWNER engineer AS SELECT id, region, score, 100 / score AS share FROM raw.patients;
-- Over both.
CREATE VIEW views.joined AS SELECT i.id, i.mrn, d.hba1c FROM views.invoked AS i JOIN views.defined AS d ON i.id = d.id;
-- A group floor shows through the text of a view.
CREATE VIEW views.counted AS SELECT region, hba1c FROM raw.cohort;
