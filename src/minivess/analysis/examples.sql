-- the last runs
SELECT experiment, name, kind, status, start_time FROM runs
ORDER BY start_time DESC LIMIT 20;

-- families by their mean over volumes
SELECT experiment, dataset, name, metric, avg(value) AS mean, count(value) AS n,
    count(*) - count(value) AS undefined
FROM latest_volumes GROUP BY ALL ORDER BY experiment, dataset, metric, mean DESC;

-- the volumes that every family finds hard
SELECT experiment, dataset, "case", avg(value) AS mean_dice
FROM latest_volumes WHERE metric = 'dice'
GROUP BY ALL ORDER BY mean_dice LIMIT 10;

-- champions on their held-out test sets
SELECT experiment, dataset, key, value FROM latest_metrics
WHERE key LIKE 'test\_%' ESCAPE '\' ORDER BY ALL;

-- what differs between trainings
SELECT experiment, dataset, key, list(DISTINCT value) AS found
FROM params SEMI JOIN latest_families USING (run_id)
GROUP BY ALL HAVING count(DISTINCT value) > 1 ORDER BY ALL;

-- how long each kind of run takes
SELECT experiment, dataset, kind, count(*) AS n,
    avg(date_diff('second', start_time, end_time)) AS seconds
FROM runs WHERE end_time IS NOT NULL GROUP BY ALL ORDER BY ALL;
