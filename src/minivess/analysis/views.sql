-- Views of the workspace; analysis/workspace.py describes them.

CREATE OR REPLACE VIEW latest_analyses AS SELECT * FROM runs
WHERE kind = 'analysis' AND status = 'FINISHED' QUALIFY row_number() OVER (
    PARTITION BY experiment, dataset ORDER BY start_time DESC, run_id) = 1;

CREATE OR REPLACE VIEW latest_families AS SELECT * FROM runs
WHERE kind = 'family' AND status = 'FINISHED' QUALIFY row_number() OVER (
    PARTITION BY experiment, dataset, name ORDER BY start_time DESC, run_id) = 1;

CREATE OR REPLACE VIEW latest_metrics AS FROM metrics SEMI JOIN latest_analyses USING (run_id);

CREATE OR REPLACE VIEW latest_volumes AS FROM volumes SEMI JOIN latest_analyses USING (run_id);

CREATE OR REPLACE VIEW latest_faults AS FROM faults SEMI JOIN latest_analyses USING (run_id);

CREATE OR REPLACE VIEW fault_counts AS
SELECT experiment, dataset, name, "case", fault, count(*) AS n, sum(length) AS length,
    avg(lumen) AS lumen, any_value(unit) AS unit
FROM latest_faults GROUP BY ALL ORDER BY experiment, dataset, n DESC;

CREATE OR REPLACE VIEW leaderboard AS
SELECT experiment, dataset, name,
    avg(value) FILTER (metric = 'compound_masd_cldice') AS compound,
    avg(value) FILTER (metric = 'dice') AS dice,
    avg(value) FILTER (metric = 'cldice') AS cldice,
    avg(value) FILTER (metric = 'masd') AS masd,
    count(value) FILTER (metric = 'dice') AS n,
    count(*) FILTER (metric = 'masd' AND value IS NULL) AS masd_undefined,
    coalesce(any_value(name = winner), false) AS champion
FROM latest_volumes LEFT JOIN (
    SELECT run_id, value AS winner FROM tags WHERE key = 'champion_family'
) AS chosen USING (run_id)
GROUP BY ALL ORDER BY experiment, dataset, compound DESC;

CREATE OR REPLACE VIEW hard_volumes AS
FROM (
    SELECT experiment, dataset, "case", avg(value) AS dice, min(value) AS lowest,
        max(value) AS highest
    FROM latest_volumes WHERE metric = 'dice' GROUP BY ALL)
LEFT JOIN (
    SELECT properties.* EXCLUDE (run_id, experiment, kind)
    FROM properties JOIN runs USING (run_id) QUALIFY row_number() OVER (
        PARTITION BY properties.dataset, "case" ORDER BY start_time DESC) = 1
) AS known USING (dataset, "case")
ORDER BY dice NULLS FIRST;

CREATE OR REPLACE VIEW what_changed AS
WITH trained AS (
    SELECT run_id, experiment, dataset, name, row_number() OVER (
        PARTITION BY experiment, dataset, name ORDER BY start_time DESC, run_id) AS age
    FROM runs WHERE kind = 'family' AND status = 'FINISHED'),
pairs AS (
    SELECT latest.experiment, latest.dataset, latest.name, latest.run_id AS new_id,
        former.run_id AS old_id
    FROM trained AS latest JOIN trained AS former USING (experiment, dataset, name)
    WHERE latest.age = 1 AND former.age = 2)
SELECT pairs.experiment, pairs.dataset, name, key,
    any_value(value) FILTER (run_id = old_id) AS before,
    any_value(value) FILTER (run_id = new_id) AS after
FROM pairs JOIN params ON run_id IN (old_id, new_id)
GROUP BY ALL HAVING before IS DISTINCT FROM after ORDER BY ALL;

CREATE OR REPLACE VIEW cost AS
SELECT experiment, dataset, kind, name, count(*) AS runs,
    sum(date_diff('millisecond', start_time, end_time)) / 1000 AS seconds,
    max(parameters.value) AS trainable_parameters
FROM runs LEFT JOIN (
    SELECT run_id, value FROM metrics WHERE key = 'trainable_parameters'
) AS parameters USING (run_id)
WHERE end_time IS NOT NULL GROUP BY ALL ORDER BY seconds DESC;

CREATE OR REPLACE VIEW lineage AS
SELECT runs.run_id, runs.experiment, runs.dataset, runs.kind, runs.name,
    link.key AS link, link.value AS upstream_run_id, above.kind AS upstream_kind,
    above.name AS upstream_name, runs.dataset_hash
FROM runs JOIN (
    SELECT run_id, key, value FROM params
    WHERE regexp_matches(key, '^upstream_.*_run_id$')
    UNION ALL
    SELECT run_id, 'parent', parent_run_id FROM runs WHERE parent_run_id IS NOT NULL
) AS link USING (run_id) LEFT JOIN runs AS above ON above.run_id = link.value
ORDER BY runs.start_time DESC;

CREATE OR REPLACE VIEW trials AS
SELECT runs.experiment, runs.dataset, runs.parent_run_id AS search_run_id, runs.run_id,
    runs.name, runs.status, settings, reached
FROM runs
LEFT JOIN (
    SELECT run_id, map(list(key ORDER BY key), list(value ORDER BY key)) AS settings
    FROM params GROUP BY run_id) USING (run_id)
LEFT JOIN (
    SELECT run_id, map(list(key ORDER BY key), list(value ORDER BY key)) AS reached
    FROM (SELECT run_id, key, arg_max(value, step) AS value FROM metrics GROUP BY ALL)
    GROUP BY run_id) USING (run_id)
WHERE kind = 'trial' ORDER BY runs.start_time;
