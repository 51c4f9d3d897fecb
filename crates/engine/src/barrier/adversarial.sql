-- Statements that try to see through a barrier. Each must answer as over a stored copy of what the reader may see.
-- t: rows filtered by region = 'eu', cells masked. m: all rows, cells masked. u: open.
-- `secret` is at rung none in both.

-- predicates without columns, which a name cannot hold back
SELECT id FROM t WHERE 1/0 > 0;
SELECT id FROM m WHERE 1/0 > 0;
SELECT id FROM t WHERE CAST('x' AS INT) = 1;
SELECT id FROM (SELECT id, 1/0 AS x FROM t) WHERE x > 0;
SELECT id FROM (SELECT id, CAST('x' AS INT) AS x FROM m) WHERE x > 0;
SELECT count(*) FROM t WHERE 1/0 > 0 AND region = 'us';
SELECT id FROM t WHERE region = 'us' AND 1/0 > 0;
SELECT t.id FROM t JOIN u ON t.id = u.id AND 1/0 > 0 WHERE t.region = 'us';
SELECT count(*) FROM t WHERE 1 / (SELECT count(*) - 60 FROM u) > 0 AND region = 'nowhere';
SELECT count(*) FROM t HAVING 1/0 > 0;

-- predicates that fail on hidden values, and print them
SELECT id FROM t WHERE 10 / amount > 0;
SELECT id FROM t WHERE amount % amount = 0;
SELECT id FROM t WHERE CAST(code AS INT) > 0;
SELECT id FROM m WHERE CAST(note AS INT) > 0;
SELECT id FROM m WHERE CAST(mrn AS INT) > 0;
SELECT id FROM t WHERE CAST(amount AS SMALLINT) > 0;
SELECT id FROM t WHERE abs(amount) > 0;
SELECT id FROM t WHERE -amount < 0;
SELECT id FROM t WHERE code ~ code;
SELECT id FROM t WHERE amount + 9223372036854775800 > 0;
SELECT id FROM t WHERE CAST(code AS DATE) IS NOT NULL;
SELECT CAST(code AS INT) FROM t WHERE region = 'us';
SELECT id, 10 / amount FROM t WHERE amount <> 0;
SELECT id FROM t WHERE amount <> 0 AND 10 / amount > 0;
SELECT id FROM t WHERE 10 / amount > 0 AND amount <> 0;
SELECT id FROM t WHERE CASE WHEN amount = 0 THEN 1 / amount ELSE 1 END > 0;
SELECT id FROM t WHERE CASE WHEN region = 'us' THEN CAST(code AS INT) ELSE 1 END = 1;
SELECT id FROM m WHERE CASE WHEN bucketed > 10 THEN CAST(note AS INT) ELSE 1 END = 1;
SELECT id FROM t WHERE substr(code, 1, amount) = 'c';
SELECT id FROM t WHERE coalesce(note, code) = 'x' OR CAST(code AS INT) = 3;

-- leakproof predicates, which do go below
SELECT id, mrn FROM t WHERE amount > 20;
SELECT id FROM t WHERE region = 'us';
SELECT id FROM t WHERE region <> 'eu' OR amount IS NULL;
SELECT id FROM m WHERE note IS NOT NULL;
SELECT id FROM m WHERE birth = DATE '1957-01-01';
SELECT id FROM m WHERE birth > DATE '1960-01-01' AND bucketed BETWEEN 10 AND 30;
SELECT id FROM m WHERE mrn IS NULL OR mrn LIKE '%a%';
SELECT id FROM m WHERE mrn IN ('m1', 'm2', 'm3');
SELECT id FROM t WHERE code IN ('c1', 'c2', 'HID') AND NOT flag;
SELECT id FROM t WHERE amount IS DISTINCT FROM 0;
SELECT id FROM t WHERE code LIKE 'HID%';

-- columns that are not there
SELECT secret FROM t;
SELECT id FROM t WHERE secret = 1;
SELECT t.secret FROM t JOIN u ON t.secret = u.id;
SELECT * FROM t ORDER BY secret;
SELECT count(DISTINCT secret) FROM m;

-- limits and orders
SELECT count(*) FROM (SELECT * FROM t LIMIT 5);
SELECT count(*) FROM (SELECT * FROM t LIMIT 5 OFFSET 3);
SELECT count(*) FROM (SELECT * FROM t WHERE amount > 5 LIMIT 1000);
SELECT count(*) FROM (SELECT * FROM m LIMIT 7);
SELECT id FROM t ORDER BY id LIMIT 3;
SELECT id, amount FROM t ORDER BY amount DESC NULLS LAST, id LIMIT 4;
SELECT id FROM m ORDER BY note, bucketed, birth, id LIMIT 4;
SELECT id FROM t ORDER BY 10 / (amount + 1), id LIMIT 2;
SELECT max(amount), min(amount) FROM t;
SELECT max(bucketed), min(birth), max(note) FROM m;
SELECT count(*) FROM t;
SELECT count(*) FROM m;
SELECT count(note), count(mrn), count(amount) FROM m;

-- joins
SELECT t.id, u.val FROM t JOIN u ON t.id = u.id;
SELECT t.id, u.val FROM t LEFT JOIN u ON t.id = u.id AND t.amount > 10;
SELECT t.id, u.val FROM t RIGHT JOIN u ON t.id = u.id;
SELECT t.id, u.val FROM t FULL JOIN u ON t.id = u.id AND t.region = 'us';
SELECT a.id, b.id FROM t a JOIN t b ON a.amount = b.amount WHERE a.id < b.id;
SELECT a.id FROM m a JOIN m b ON a.note = b.note;
SELECT a.id, b.id FROM m a JOIN m b ON a.mrn = b.mrn AND a.id <> b.id;
SELECT t.id FROM t JOIN u ON t.id = u.id AND 10 / t.amount > 0;
SELECT t.id FROM t LEFT SEMI JOIN u ON t.id = u.id AND 10 / t.amount < u.val;
SELECT u.id FROM u LEFT ANTI JOIN t ON t.id = u.id;
SELECT count(*) FROM t CROSS JOIN u;
SELECT count(*) FROM t, u WHERE t.amount > u.val;
SELECT t.id FROM u JOIN t ON u.id = t.id WHERE u.val < 10;
SELECT m.id, t.id FROM m JOIN t ON m.id = t.id WHERE m.bucketed = 20;

-- subqueries
SELECT id FROM t WHERE id IN (SELECT id FROM u WHERE val > 10);
SELECT id FROM u WHERE id IN (SELECT id FROM t);
SELECT id FROM u WHERE id NOT IN (SELECT id FROM t WHERE amount > 0);
SELECT id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.id = u.id AND t.region = 'us');
SELECT id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.region = 'us' AND 1/0 > 0);
SELECT id FROM u WHERE NOT EXISTS (SELECT 1 FROM m WHERE m.id = u.id AND m.note = 'x');
SELECT id, (SELECT max(amount) FROM t) FROM u;
SELECT id, (SELECT count(*) FROM t WHERE t.id = u.id) FROM u;
SELECT id FROM u WHERE val > (SELECT min(10 / amount) FROM t WHERE amount > 5);
SELECT id FROM t WHERE amount > (SELECT avg(val) FROM u);
SELECT id FROM t WHERE 10 / (SELECT min(val) - min(val) FROM u) > amount;
SELECT u.id, x.amount FROM u, LATERAL (SELECT amount FROM t WHERE t.id = u.id AND t.amount > u.val) x;
SELECT id FROM (SELECT * FROM t WHERE amount > 0) WHERE 100 / amount > 1;

-- joins by time, in the parentheses in which the dialect hands them to the planner
SELECT u.id, t.id, t.mrn, t.amount FROM (u ASOF JOIN t MATCH_CONDITION (u.val >= t.id) ON u.id = t.amount);
SELECT t.id, m.note, m.birth FROM (t ASOF JOIN m MATCH_CONDITION (t.id >= m.bucketed) ON t.id = m.id);
SELECT t.id, m.id FROM (t ASOF JOIN m MATCH_CONDITION (t.id > m.id) ON t.mrn = m.mrn) WHERE 1/0 > 0;
SELECT u.id FROM (u ASOF JOIN t MATCH_CONDITION (u.val >= t.id) ON u.id = t.amount) WHERE 10 / t.amount > 0;
SELECT t.id, m.secret FROM (t ASOF JOIN m MATCH_CONDITION (t.id >= m.secret) ON t.id = m.id);
SELECT t.id, m.id FROM (t ASOF JOIN m MATCH_CONDITION (t.birth >= m.birth) ON t.code = m.note);

-- groups, windows, sets
SELECT region, count(*), sum(amount) FROM t GROUP BY region;
SELECT note, mrn, count(*) FROM m GROUP BY note, mrn;
SELECT region, count(*) FROM t GROUP BY region HAVING max(CAST(code AS INT)) > 0;
SELECT code, sum(10 / amount) FROM t GROUP BY code;
SELECT DISTINCT region FROM t;
SELECT DISTINCT bucketed, birth, note FROM m;
SELECT count(DISTINCT code) FROM t;
SELECT region, flag, count(*) FROM t GROUP BY ROLLUP (region, flag);
SELECT id, row_number() OVER (ORDER BY amount, id), count(*) OVER () FROM t;
SELECT id FROM (SELECT id, rank() OVER (PARTITION BY region ORDER BY id) r FROM t) WHERE r <= 3;
SELECT id, sum(bucketed) OVER (PARTITION BY birth ORDER BY id) FROM m;
SELECT id FROM t UNION SELECT id FROM u;
SELECT id FROM t UNION ALL SELECT id FROM m WHERE 10 / bucketed > 0;
SELECT id FROM t INTERSECT SELECT id FROM u;
SELECT id FROM u EXCEPT SELECT id FROM t;
SELECT mrn FROM m EXCEPT SELECT code FROM t;
WITH RECURSIVE r AS (SELECT id, amount FROM t WHERE id < 5 UNION SELECT t.id, t.amount FROM t JOIN r ON t.id = r.id + 1) SELECT * FROM r;
WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n, count(*) FROM r JOIN t ON t.id >= n GROUP BY n;
WITH x AS (SELECT * FROM t) SELECT a.id FROM x a JOIN x b ON a.id = b.amount WHERE 10 / a.amount >= 0 OR a.amount = 0;

-- nested values
SELECT id, info['a'] FROM t WHERE info['a'] > 3;
SELECT info['b'], count(*) FROM t WHERE info['b'] IS NOT NULL GROUP BY info['b'];
SELECT id FROM t WHERE info['a'] > 2 AND 10 / info['a'] > 0;
SELECT a.id FROM t a JOIN u ON a.info['a'] = u.id WHERE a.info['b'] <> 'x';
SELECT id, unnest(tags) FROM t;
SELECT id, tag FROM (SELECT id, unnest(tags) AS tag FROM t) WHERE 10 / tag > 0;
SELECT id FROM t WHERE array_length(tags) > 1;
SELECT id, tags[1] FROM m WHERE tags[1] > 1;

-- names
SELECT * FROM t ORDER BY id;
SELECT * FROM m ORDER BY id;
SELECT a.* FROM t AS a(x1, x2) ORDER BY 1;
SELECT id AS region FROM t WHERE region = 'eu';
SELECT mask('p', 'raw', id) FROM t;
SELECT rows('eu', true) FROM t;
