"""All results of the output folder on one page: `just notebook`."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="minivess")


@app.cell
def _():
    import importlib.util

    import marimo as mo
    import matplotlib.pyplot as plt

    import minivess as mv
    from minivess import config, errors, home, names
    from minivess.formats.volume import read_volume

    return config, errors, home, importlib, mo, mv, names, plt, read_volume


@app.cell
def _(mo):
    refresh = mo.ui.refresh(label="look again", options=["10s", "1m", "10m"])
    mo.hstack([mo.md("# Results of this output folder"), refresh])
    return (refresh,)


@app.cell
def _(config, mo):
    _server = config.environment().mlflow_tracking_uri or ""
    mlflow = mo.ui.text(
        value=_server if _server.startswith("http") else "http://127.0.0.1:5000",
        label="MLflow's page, which `just up` serves, for links to runs",
    )
    mlflow
    return (mlflow,)


@app.cell
def _(errors, mlflow, mo, mv, refresh):
    refresh.value
    try:
        runs = mv.runs()
    except errors.MinivessError as _error:
        mo.stop(True, mo.callout(f"The store does not answer. {_error}", kind="danger"))
    mo.stop(
        runs.empty,
        mo.callout(
            mo.md(
                "There are no runs in this output folder yet: train below, or `just experiment`."
            ),
            kind="warn",
        ),
    )
    linked = runs.reset_index()
    linked["page"] = f"{mlflow.value.rstrip('/')}/#/runs/" + linked["run_id"]
    mo.accordion({f"{len(runs)} runs": mo.ui.table(linked, selection=None)})
    return linked, runs


@app.cell
def _(mo, mv, runs):
    leaderboard = mv.sql("FROM leaderboard") if len(runs) else None
    mo.stop(
        leaderboard.empty,
        mo.callout(mo.md("Nothing is judged yet: `just analyse`."), kind="warn"),
    )
    mo.vstack(
        [
            mo.md("## Leaderboard\nOut-of-fold means of the latest analysis of each experiment."),
            mo.ui.table(leaderboard, selection=None),
        ]
    )
    return (leaderboard,)


@app.cell
def _(leaderboard, mo, mv):
    volumes = mv.sql("FROM hard_volumes") if len(leaderboard) else None
    mo.vstack(
        [
            mo.md("## Volumes\nThe hardest first: Dice over all configurations, and properties."),
            mo.ui.table(volumes, selection=None),
        ]
    )
    return (volumes,)


@app.cell
def _(mo, volumes):
    _named = {
        f"{row.experiment} / {row.case}": (row.dataset, row.case) for row in volumes.itertuples()
    }
    case = mo.ui.dropdown(_named, value=next(iter(_named), None), label="image with its label")
    case
    return (case,)


@app.cell
def _(case, config, home, importlib, mo, plt, read_volume):
    mo.stop(case.value is None, mo.md("There is no volume to show."))
    _place = home.open_home(config.environment().home, reading=True).dvc / case.value[0]
    files = [
        file for role in ("images", "labels") if (_place / role).is_dir()
        for file in sorted((_place / role).iterdir()) if file.name.startswith(f"{case.value[1]}.")
    ]  # fmt: skip
    mo.stop(
        len(files) != 2,
        mo.callout(
            mo.md(f"The files of {case.value[1]} are not in this folder: `just profile`."),
            kind="warn",
        ),
    )
    if importlib.util.find_spec("ipyniivue"):
        from ipyniivue import NiiVue

        viewer = NiiVue()
        viewer.load_volumes(
            [
                {"path": str(files[0]), "colormap": "gray"},
                {"path": str(files[1]), "colormap": "red", "opacity": 0.5},
            ]
        )
        _shown = mo.ui.anywidget(viewer)
    else:
        viewer = None
        image, label = (read_volume(file).array for file in files)
        _z = int((label > 0).sum(axis=(0, 1)).argmax())
        _figure, _plot = plt.subplots(figsize=(5, 5), layout="constrained")
        _plot.imshow(image[:, :, _z].T, cmap="gray")
        _plot.contour(label[:, :, _z].T > 0, levels=[0.5], colors="tab:red", linewidths=1)
        _plot.set_title(f"{case.value[1]}, slice {_z} of {label.shape[2]}, most foreground")
        plt.close(_figure)
        _note = "One slice, because ipyniivue is not installed; in 3-D after `just setup volumes`."
        _shown = mo.vstack([_figure, mo.callout(mo.md(_note), kind="info")])
    _shown
    return files, viewer


@app.cell
def _(leaderboard, mo, mv):
    scores = mv.sql("""
        SELECT experiment, name, metric, avg(value) AS value FROM latest_volumes GROUP BY ALL
        UNION ALL
        SELECT experiment, name, unnest(['seconds', 'parameters']) AS metric,
            unnest([seconds, trainable_parameters]) AS value
        FROM cost WHERE kind = 'family'
    """).pivot_table(index=["experiment", "name"], columns="metric", values="value")
    experiment = mo.ui.dropdown(
        sorted(set(leaderboard["experiment"])), value=leaderboard["experiment"][0],
        label="experiment",
    )  # fmt: skip
    across = mo.ui.dropdown(list(scores.columns), value="cldice", label="across")
    upwards = mo.ui.dropdown(list(scores.columns), value="dice", label="upwards")
    mo.vstack(
        [mo.md("## Two metrics against each other"), mo.hstack([experiment, across, upwards])]
    )
    return across, experiment, scores, upwards


@app.cell
def _(across, experiment, mo, names, plt, scores, upwards):
    _axes = list(dict.fromkeys([across.value, upwards.value]))
    pairs = scores.loc[experiment.value].dropna(subset=_axes)
    _less = {*names.LOWER_IS_BETTER, "seconds", "parameters"}
    _goodness = pairs[_axes] * [-1 if metric in _less else 1 for metric in _axes]
    # On the front is what no other surpasses in one metric without being worse in the other.
    front = [
        name for name, row in _goodness.iterrows()
        if not ((_goodness >= row).all(axis=1) & (_goodness > row).any(axis=1)).any()
    ]  # fmt: skip
    _figure, _plot = plt.subplots(figsize=(7, 4), layout="constrained")
    for _name, _row in pairs.iterrows():
        _filled = "tab:blue" if _name in front else "none"
        _point = (_row[across.value], _row[upwards.value])
        _plot.scatter(*_point, s=60, facecolor=_filled, edgecolor="tab:blue")
        _plot.annotate(_name, _point, xytext=(6, 4), textcoords="offset points", fontsize=8)
    _plot.set(xlabel=across.value, ylabel=upwards.value)
    plt.close(_figure)
    mo.vstack([_figure, mo.md(f"Filled: the Pareto front, {', '.join(front)}.")])
    return front, pairs


@app.cell
def _(mo, mv, runs):
    keys = mv.sql("""
        SELECT DISTINCT key FROM metrics WHERE kind IN ('cell', 'refit')
        GROUP BY key, run_id HAVING count(DISTINCT step) > 1 ORDER BY key
    """)["key"] if len(runs) else []  # fmt: skip
    mo.stop(not len(keys), mo.callout(mo.md("No network has trained yet."), kind="warn"))
    shown = mo.ui.dropdown(
        list(keys), value="train_loss" if "train_loss" in set(keys) else keys[0], label="metric"
    )
    mo.vstack([mo.md("## Curves"), shown])
    return (shown,)


@app.cell
def _(mv, plt, shown):
    curves = mv.sql(f"""
        SELECT coalesce(parents.name || ' / ', '') || runs.name AS run, step, value
        FROM metrics JOIN runs USING (run_id)
        LEFT JOIN runs AS parents ON parents.run_id = runs.parent_run_id
        WHERE key = '{shown.value}' AND metrics.kind IN ('cell', 'refit') ORDER BY run, step
    """)
    _figure, _plot = plt.subplots(figsize=(7, 4), layout="constrained")
    for _name, _curve in curves.groupby("run"):
        _plot.plot(_curve["step"], _curve["value"], label=_name)
    _plot.set(xlabel="epoch", ylabel=shown.value)
    if curves["run"].nunique() <= 12:
        _plot.legend(fontsize=7)
    plt.close(_figure)
    _figure
    return (curves,)


@app.cell
def _(mo):
    root = mo.ui.text(label="folder of images and labels (empty: demo data)", full_width=True)
    losses = mo.ui.text(value="dice_ce", label="losses, separated by commas")
    epochs = mo.ui.number(start=1, stop=10_000, value=5, label="epochs")
    train = mo.ui.run_button(label="Train")
    stop = mo.ui.run_button(label="Stop", kind="danger")
    job, set_job = mo.state(None)
    mo.vstack([
        mo.md("""## A small run
Two folds of a small network. Nothing starts before the button is pressed, and what is trained
already is reused. The training goes on when this page is closed."""),
        root, mo.hstack([losses, epochs, train, stop], justify="start"),
    ])  # fmt: skip
    return epochs, job, losses, root, set_job, stop, train


@app.cell
def _(epochs, losses, mv, root, set_job, train):
    if train.value:
        set_job(
            mv.start(
                root.value or None,
                "model.filters=[8,16,32]",
                losses=[word.strip() for word in losses.value.split(",")],
                folds=2,
                max_epochs=epochs.value,
            )
        )
    return


@app.cell
def _(job, mo, refresh, stop):
    refresh.value
    if stop.value and job() is not None:
        job().stop()
    mo.plain_text(job().tail()) if job() is not None else mo.md("No run was started here.")
    return


if __name__ == "__main__":
    app.run()
