-- Mean, standard deviation and rank of each family and metric. $1: metrics.csv, $2: metrics of which less is better,
-- $3: metrics whose mean is over volumes.
WITH numbered AS (SELECT *, row_number() OVER () AS place FROM read_csv($1, all_varchar = true)),
newest AS (FROM numbered
    QUALIFY row_number() OVER (PARTITION BY family, fold ORDER BY place DESC) = 1),
scores AS (FROM newest UNPIVOT INCLUDE NULLS (
    score FOR metric IN (COLUMNS(* EXCLUDE (family, fold, run, ended, n_volumes, place))))),
judged AS (
    SELECT s.metric, s.family, s.score::DOUBLE AS score, s.n_volumes::DOUBLE AS volumes,
        coalesce(u.score::DOUBLE, 0) AS undefined, split_part(s.metric, '_class', 1) AS stem
    FROM scores s LEFT JOIN scores u
        ON u.metric = s.metric || '_n_undefined' AND (u.family, u.fold) = (s.family, s.fold)
    -- The best epoch flatters, and losses of different formulas have different scales.
    WHERE s.metric NOT LIKE '%_n_undefined' AND s.metric NOT LIKE 'best_%'
        AND (s.score IS NOT NULL OR undefined > 0)),
means AS (
    SELECT metric, stem, family,
        CASE WHEN stem IN (SELECT unnest($3)) AND count(volumes) = count(*)
            THEN sum(score * (volumes - undefined))
                / sum(volumes - undefined) FILTER (score IS NOT NULL)
            ELSE avg(score) END AS mean,
        stddev_samp(score) AS std, count(score) AS n_folds, sum(undefined) AS n_undefined
    FROM judged GROUP BY metric, stem, family)
SELECT * EXCLUDE (stem), row_number() OVER (
    PARTITION BY metric
    ORDER BY if(stem IN (SELECT unnest($2)), mean, -mean) NULLS LAST, family) AS rank
FROM means ORDER BY metric, rank
