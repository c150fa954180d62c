"""The library door: `import minivess as mv`, for scripts and notebooks.

Each function is a verb of the command line: the same settings, content keys, MLflow runs, reuse
and errors. Settings are overrides (`"training.max_epochs=5"`), YAML files, or keywords: the last
part of a setting's name (`max_epochs=5`) where only one setting of the verb ends so. What is
finished already is found, not made again.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from minivess import config as configs
from minivess.contracts import AnalysisResult, ComputePlan, DatasetProfile, TrainingResult
from minivess.errors import DataError, TrainingError, UsageError, nearest
from minivess.home import open_home
from minivess.orchestration.session import Session, open_session
from minivess.runtime import processes
from minivess.text import several, some
from minivess.verbs import VERBS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from PIL.Image import Image

    from minivess.combination import Segmenting
    from minivess.contracts import Spacing
    from minivess.serving.predict import Allowed

Overrides = tuple[str, ...]
LOOK_S = 0.2
SHOWN_LINES = 5


# --- what the verbs return ----------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """A checked, measured and versioned dataset."""

    profile: DatasetProfile
    overrides: Overrides = ()
    """The settings it was made with, which the next stages use as well."""

    @property
    def run_id(self) -> str:
        """Its run in MLflow."""
        return str(self.profile.run_id)

    @property
    def name(self) -> str:
        """Its name, which experiment and model have too unless another is given."""
        return self.profile.dataset

    @property
    def volumes(self) -> pd.DataFrame:
        """One row for each volume: case, group, shape (voxels), voxel size, unit, intensities."""
        import pandas as pd

        return pd.DataFrame([stats.model_dump() for stats in self.profile.volumes])

    @property
    def findings(self) -> pd.DataFrame:
        """One row for each finding of a check: case, code, severity, message, remedy."""
        import pandas as pd

        return pd.DataFrame([found.model_dump() for found in self.profile.findings])

    def plan(self, *overrides: str, **settings: Any) -> dict[str, ComputePlan]:
        """Patch, batch, precision and cache of each model on this machine: see `mv.plan`."""
        return plan(self, *overrides, **settings)

    def show(self, case: str) -> Image:
        """The slice with most foreground beside the maximum along z, the label over both.

        A notebook draws it; `.save("volume.png")` keeps it.

        Raises:
            UsageError: the dataset has no such volume; the nearest name is given.
        """
        from minivess.grid.context import restore
        from minivess.review.pages.views import picture

        with _session("plan", _kept(self.overrides, "plan"), {}) as session:  # without the lock
            cases = restore(session, self.profile)
            if case not in cases:
                near = nearest(case, cases)
                known = f"did you mean {near!r}?" if near else f"one of {some(cases, SHOWN_LINES)}"
                raise UsageError(f"{self.name} has no volume {case!r}.", remedy=known)
            return picture(cases[case], self.profile.label_map)

    def _repr_html_(self) -> str:
        return _page(self, self.volumes)

    def __repr__(self) -> str:
        first, last = self.profile.min_shape, self.profile.max_shape
        return (
            f"Dataset {self.name!r}: {several(self.profile.n_volumes, 'volume')}, "
            f"{'x'.join(map(str, first))} to {'x'.join(map(str, last))}, "
            f"{several(len(self.profile.findings), 'finding')}, data {self.profile.dataset_hash}"
        )


@dataclass(frozen=True)
class Training:
    """A trained grid: a parent run for each model x loss x seed, a child run for each fold."""

    result: TrainingResult
    overrides: Overrides = ()

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The parent runs in MLflow."""
        return self.result.run_ids

    @property
    def table(self) -> pd.DataFrame:
        """One row for each configuration: model, loss, seed and the means over its folds."""
        import pandas as pd

        named = {family.run_name: family.metrics for family in self.result.families}
        return pd.DataFrame.from_dict(named, orient="index")

    def _repr_html_(self) -> str:
        return _page(self, self.table)

    def __repr__(self) -> str:
        rows = (
            f"  {family.run_name}: {several(len(family.child_run_ids), 'fold')}, "
            f"validation Dice {family.metrics.get('eval_dice', float('nan')):.3f}"
            for family in self.result.families
        )
        return "\n".join([f"Training of {self.result.experiment!r}", *rows])


@dataclass(frozen=True)
class Job:
    """A training in a process of its own, which a notebook that is closed does not end."""

    process: processes.Child
    log: Path
    """What the training prints."""
    overrides: Overrides = ()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def wait(self) -> Training:
        """Show what it prints until it ends; interrupting this leaves it running.

        Raises:
            TrainingError: it failed or was stopped.
        """
        from minivess.orchestration import handoff

        with self.log.open(encoding="utf-8") as lines:
            ended = False
            while not ended:
                ended = self.done
                sys.stdout.write("".join(line for line in lines if not line.startswith("{")))
                time.sleep(0 if ended else LOOK_S)
        if self.process.returncode:
            raise TrainingError(
                f"The training ended with exit code {self.process.returncode}:\n{self.tail()}",
                remedy="mv.start with the same settings, once that is corrected: it resumes",
            )
        told = json.loads(self.tail(1))
        with _session("sql", (), {}) as session:
            result = handoff.receive_training(session, told["training_run_ids"])
        return Training(result, self.overrides)

    def stop(self) -> None:
        """End it as Ctrl-C does: what is finished is kept, and the same settings resume."""
        self.process.terminate()  # its signal handler ends what it has started
        try:
            self.process.wait(processes.END_LIMIT_S)
        except subprocess.TimeoutExpired:
            processes.end(self.process.pid)

    def tail(self, lines: int = SHOWN_LINES) -> str:
        """The last lines that it printed."""
        return "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-lines:])

    def __repr__(self) -> str:
        state = f"ended with {self.process.returncode}" if self.done else "runs"
        return f"Job {self.process.pid} {state}, {self.log}\n{self.tail(1)}"


@dataclass(frozen=True)
class Search:
    """Settings that were tried, and the best of them."""

    run_id: str
    """Its run in MLflow."""
    best: dict[str, Any]
    """Trial, value and settings of the winner."""
    file: Path
    """The winner as an experiment file, for `mv.train(data, str(search.file))`."""
    trials: list[dict[str, Any]]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each trial."""
        import pandas as pd

        return pd.DataFrame(self.trials)

    def _repr_html_(self) -> str:
        return _page(self, self.table)

    def __repr__(self) -> str:
        return f"Search: best of {len(self.trials)} is {self.best}\n  file {self.file}"


@dataclass(frozen=True)
class Analysis:
    """Configurations and ensembles judged out of fold, and the champion among them."""

    result: AnalysisResult
    report: Path
    """The report as an HTML page."""

    @property
    def run_id(self) -> str:
        """Its run in MLflow."""
        return str(self.result.run_id)

    @property
    def champion(self) -> str:
        """The configuration that was chosen; `result.champion` says why."""
        return self.result.champion.family

    @property
    def table(self) -> pd.DataFrame:
        """Mean, bounds of the interval and number of volumes by configuration and metric."""
        import pandas as pd

        rows = [
            {"configuration": scores.name, "metric": metric, **interval.model_dump()}
            for scores in (*self.result.families, *self.result.ensembles)
            for metric, interval in scores.intervals.items()
        ]
        return pd.DataFrame(rows).set_index(["configuration", "metric"])

    def compare(self, name: str, against: str) -> pd.Series[Any]:
        """Two configurations or ensembles, paired over the volumes: difference, interval, p-value.

        Raises:
            UsageError: they were not compared; the names that were are listed.
        """
        import pandas as pd

        found = self.result.comparison(name, against)
        if found is None:
            known = sorted({n for one in self.result.comparisons for n in (one.name, one.against)})
            raise UsageError(
                f"{name!r} and {against!r} were not compared.",
                remedy=f"two of {', '.join(known)}" if known else "train two configurations",
            )
        return pd.json_normalize(found.model_dump()).iloc[0]

    def share(self, folder: str | Path, *, volumes: bool = False) -> Path:
        """Write the folder that `minivess share` writes, and return its first page."""
        from minivess.production.share import share

        with _session("share", (), {}) as session:
            share(session, Path(folder), [self.run_id], volumes=volumes)
        return Path(folder).expanduser() / "index.html"

    def show(self) -> None:
        """Open the report in a browser."""
        import webbrowser

        webbrowser.open(self.report.as_uri())

    def _repr_html_(self) -> str:
        return _page(self, self.table)

    def __repr__(self) -> str:
        chosen = self.result.champion
        return f"Analysis of {self.result.experiment!r}: {chosen.reason}\n  report {self.report}"


@dataclass(frozen=True)
class Model:
    """A registered model, ready to segment."""

    facts: dict[str, Any]
    """Name, version, training run, dataset and its hash, out-of-fold Dice."""
    predictor: Segmenting
    allowed: Allowed

    def __call__(
        self, array: npt.ArrayLike, *, spacing: Spacing, unit: str = "unknown"
    ) -> npt.NDArray[np.uint8]:
        """Segment one volume.

        Args:
            array: Raw intensities, shape (X, Y, Z), of any integer or float type.
            spacing: Size of a voxel along (x, y, z).
            unit: Unit of `spacing`: micron, mm, ... or unknown.

        Returns:
            The label value of each voxel, shape (X, Y, Z).

        Raises:
            DataError: `profile` would quarantine the volume, or it takes more memory than is free
                (`memory_gb`); the message has the code.
        """
        import numpy as np

        from minivess.formats.decode import Volume
        from minivess.serving import predict

        voxels = np.asarray(array)
        if voxels.ndim != 3:
            raise DataError(
                f"An array of shape {voxels.shape} is no volume (X, Y, Z).",
                remedy="give one volume and one channel: array[0], or model(a) for a in volumes",
                code="wrong_dimensions",
            )
        volume = Volume(voxels, spacing, unit, np.diag([*spacing, 1.0]))
        for odd in predict.admit(volume, self.predictor, self.allowed):
            warnings.warn(f"{odd.code}: {odd.message}", stacklevel=2)
        return predict.segment(volume, self.predictor)

    def memory_gb(self, shape: tuple[int, int, int]) -> float:
        """Return the GiB of memory that a volume of a shape (X, Y, Z) takes to be segmented."""
        from minivess.serving import forecast

        return forecast.memory_gb(shape, self.predictor)

    def predict(self, source: str | Path, target: str | Path) -> list[Path]:
        """Segment a file or a folder of files; returns the masks, as `minivess predict` does.

        Raises:
            DataError: volumes were refused; the others have their masks.
        """
        from minivess.config import DataConfig
        from minivess.serving import predict

        pairs = predict.plan(Path(source).expanduser(), Path(target).expanduser()).pairs
        segmenter = predict.own(self.predictor, DataConfig(), self.allowed)
        outcomes = list(predict.each(pairs, segmenter))
        refused = [one for one in outcomes if one.mask is None]
        if refused:
            first = refused[0].findings[0]
            named = ", ".join(f"{one.source.name} ({one.findings[0].code})" for one in refused)
            raise DataError(
                f"{len(refused)} of {several(len(outcomes), 'volume')} were refused: {named}.",
                remedy=str(first.remedy),
                code=first.code,
            )
        return [one.mask for one in outcomes if one.mask is not None]

    def __repr__(self) -> str:
        dice = self.facts["out_of_fold_dice"]
        judged = "never scored" if dice is None else f"out-of-fold Dice {dice:.3f}"
        name, version = self.facts["name"], self.facts["version"]
        return f"Model {name} version {version}: {self.facts['family']}, {judged}"


# --- the verbs ----------------------------------------------------------------------------


def profile(root: str | Path | None = None, *overrides: str, **settings: Any) -> Dataset:
    """Pair, check, measure and version a dataset (flow 1).

    Args:
        root: A folder of images and labels; without it, twelve demo volumes.
        overrides: Settings `"data.label_map=binary"` and YAML files.
        settings: Settings by name: `label_map="binary"`.
    """
    from minivess.stages import profile as stage

    with _session("profile", _rooted(root, overrides), settings) as session:
        return Dataset(stage.profile_data(session), session.words)


def plan(
    data: Dataset | str | Path | None = None, *overrides: str, **settings: Any
) -> dict[str, ComputePlan]:
    """Print every automatic choice, its reason and a forecast; returns the plan of each model.

    Args:
        data: A profiled dataset, or a folder as it is now.
        overrides: Settings and YAML files.
        settings: Settings by name.
    """
    from minivess.stages import plan as stage

    words, upstream = _of(data, overrides, "plan")
    with _session("plan", words, settings) as session:
        found = stage.plan(session, upstream)["models"]
    return {name: ComputePlan.model_validate(one["plan"]) for name, one in found.items()}


def train(
    data: Dataset | str | Path | None = None,
    *overrides: str,
    yes: bool = False,
    **settings: Any,
) -> Training:
    """Train every cell of the grid that is not trained yet (flow 2).

    Args:
        data: A profiled dataset, or a folder, which is profiled first.
        overrides: Settings and YAML files.
        yes: Start even if the forecast is long.
        settings: Settings by name: `losses=["dice_ce", "cbdice"], max_epochs=50`.
    """
    from minivess.stages import train as stage

    words, upstream = _of(data, overrides, "train")
    with _session("train", words, settings, yes=yes) as session:
        return Training(stage.train(session, upstream), session.words)


def start(
    data: Dataset | str | Path | None = None,
    *overrides: str,
    ends_with_python: bool = False,
    **settings: Any,
) -> Job:
    """Train in a process of its own, so that the notebook stays free: see `mv.train`.

    Args:
        data: A profiled dataset, or a folder, which is profiled first.
        overrides: Settings and YAML files.
        ends_with_python: Stop the job when this Python ends; else it goes on.
        settings: Settings by name.
    """
    words, upstream = _of(data, overrides, "train")
    given = _given("train", words, settings)
    home = open_home(configs.environment().home)
    log = home.logs / f"job-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns()}.txt"
    command = [sys.executable, "-m", "minivess.cli.main", "train", *given, "--yes", "--json"]
    command += [f"--upstream={run_id}" for run_id in upstream]
    variables = configs.child_environment(MINIVESS_LAUNCHED_BY="python", PYTHONUNBUFFERED="1")
    process = processes.outliving(command, variables, log=log, folder=Path.cwd())
    job = Job(process, log, given)
    if ends_with_python:
        atexit.register(job.stop)
    return job


def search(data: Dataset | str | Path | None = None, *overrides: str, **settings: Any) -> Search:
    """Try settings with Optuna and write the best as an experiment file.

    Args:
        data: A profiled dataset, or a folder.
        overrides: Settings and YAML files, for example configs/experiments/search.yaml.
        settings: Settings by name: `trials=20, space={"training.learning_rate": {"low": 1e-4,
            "high": 0.1, "log": True}}`.
    """
    from minivess.stages import search as stage

    words, upstream = _of(data, overrides, "search")
    with _session("search", words, settings) as session:
        found = stage.search(session, upstream)
    return Search(found["search_run_id"], found["best"], Path(found["file"]), found["trials"])


def runs(*kinds: str, experiment: str | None = None, every: bool = False) -> pd.DataFrame:
    """Runs as a frame by run id, newest first; as `minivess runs`.

    Args:
        kinds: family, analysis, ...; without any, all results.
        experiment: Only those of this experiment.
        every: Folds, trials and failed runs as well.
    """
    import pandas as pd

    from minivess.upkeep import listing

    with _session("runs", (), {}) as session:
        listing.require_kinds(kinds)
        rows = listing.rows(session.store, kinds, experiment=experiment, every=every)
    frame = pd.DataFrame(rows, columns=listing.COLUMNS).set_index("run_id")
    frame["started"] = pd.to_datetime(frame["started"], unit="s")
    return frame


def analyse(
    training: Training | Job | Sequence[str] | None = None, *overrides: str, **settings: Any
) -> Analysis:
    """Judge trainings out of fold, choose the champion and write the report (flow 3).

    Args:
        training: What `train` returned, a job, which is waited for, or ids of training runs;
            without it, the latest.
        overrides: Settings and YAML files.
        settings: Settings by name.
    """
    from minivess.stages import analyse as stage

    if isinstance(training, Job):
        training = training.wait()
    words, upstream = overrides, training or ()
    if isinstance(upstream, Training):
        words, upstream = _kept(upstream.overrides, "analyse") + overrides, upstream.run_ids
    with _session("analyse", words, settings) as session:
        result = stage.analyse(session, session.full_ids(upstream))
        return Analysis(result, stage.report_page(session, str(result.run_id)))


def load(reference: str) -> Model:
    """Load a registered model.

    Args:
        reference: `NAME@production`, `NAME@champion`, `NAME/VERSION`, or the id of a training,
            analysis or deployment run.

    Raises:
        StoreError: there is no such model.
    """
    from minivess.production import predict as stage

    with _session("predict", (), {}) as session:
        chosen = stage.choose(session, session.full_ids([reference]))
        return Model(
            stage.facts(chosen),
            stage.predictor_of(session, chosen),
            stage.allowed(session, chosen),
        )


def sql(query: str) -> pd.DataFrame:
    """Ask DuckDB over all runs, one SELECT: see `minivess help sql` and docs/research-scientist.md.

    Raises:
        UsageError: the query is refused; the message lists the tables.
    """
    import pandas as pd

    from minivess.analysis import workspace
    from minivess.stages import analyse as stage

    with _session("sql", (), {}) as session:
        stage.refresh_workspace(session)
        return pd.DataFrame(workspace.query(session.home.workspace, query))


def evaluate(
    prediction: npt.ArrayLike, label: npt.ArrayLike, *, spacing: Spacing = (1.0, 1.0, 1.0)
) -> dict[str, float | None]:
    """Judge a mask (X, Y, Z) against the ground truth by every metric of the analysis.

    Args:
        prediction: Label values; 0 is background.
        label: The ground truth, of the same shape; 255 where nobody annotated.
        spacing: Size of a voxel along (x, y, z); distances are in its unit.

    Returns:
        Metric -> value; None where it is undefined, as a distance to an empty mask is.
    """
    import numpy as np

    from minivess.contracts import IGNORED
    from minivess.evaluation import metrics

    mask, truth = np.asarray(prediction), np.asarray(label)
    if mask.shape != truth.shape or mask.ndim != 3:
        raise DataError(
            f"A mask of shape {mask.shape} cannot be judged against a label of {truth.shape}.",
            remedy="give two arrays (X, Y, Z) of one shape",
            code="shape_mismatch",
        )
    values = sorted({0, *np.unique(mask), *np.unique(truth)} - {IGNORED})
    return metrics.judge(
        np.searchsorted(values, mask).astype(np.uint8),
        np.where(truth == IGNORED, IGNORED, np.searchsorted(values, truth)).astype(np.uint8),
        classes=tuple(int(value) for value in values),
        config=configs.EvaluationConfig(),
        spacing=spacing,
    )


def measure(
    mask: npt.ArrayLike | str | Path,
    target: str | Path | None = None,
    *,
    spacing: Spacing | None = None,
    unit: str | None = None,
) -> pd.DataFrame:
    """Measure the vessels of masks: length, diameters, branching, tortuosity, parts, loops.

    Args:
        mask: A file, a folder, or an array (X, Y, Z) of label values, which needs `spacing`.
        target: Folder for measures.csv and the graphs (GraphML, SWC) of files.
        spacing: Size of a voxel along (x, y, z), where the files state none.
        unit: Of `spacing`: micron, mm.

    Returns:
        A row for each mask and class; columns as `minivess measure` writes them.

    Raises:
        DataError: no mask there, one that cannot be read, or no voxel size.
    """
    import numpy as np
    import pandas as pd

    from minivess.morphometry import mask_files, measures

    if isinstance(mask, str | Path):
        config = configs.DataConfig(spacing=spacing, unit=unit)
        place = None if target is None else Path(target).expanduser()
        return pd.DataFrame(mask_files.measure(Path(mask).expanduser(), place, config))
    if spacing is None or target is not None:
        raise UsageError(
            "An array has no voxel size and no name of its own.",
            remedy="mv.measure(array, spacing=(0.5, 0.5, 2)), and no folder; or name its file",
        )
    labels = np.asarray(mask)
    found = measures.measure(labels, spacing)
    return pd.DataFrame([{"class": value, **row} for value, row in found.items()])


# --- what a notebook cannot define -----------------------------------------------------------


def model(*_given: Any, **_settings: Any) -> NoReturn:
    """Refuse a network that a notebook defines.

    Raises:
        UsageError: naming the files that it belongs in.
    """
    _refuse_definition("model", "configs/models/NAME.yaml", 'models=["NAME"]')


def loss(*_given: Any, **_settings: Any) -> NoReturn:
    """Refuse a loss that a notebook defines.

    Raises:
        UsageError: naming the files that it belongs in.
    """
    _refuse_definition("loss", "configs/losses/NAME.yaml", 'losses=["NAME"]')


def _refuse_definition(kind: str, file: str, setting: str) -> NoReturn:
    raise UsageError(
        f"A {kind} that a notebook defines cannot be trained: a run that is resumed, reproduced or "
        "served later finds no file of it.",
        remedy=f"minivess new {kind} NAME writes NAME.py and {file}; put it into NAME.py, then "
        f"mv.train(data, {setting})",
    )


# --- settings -----------------------------------------------------------------------------


@contextmanager
def _session(
    verb: str, overrides: Overrides, settings: dict[str, Any], *, yes: bool = False
) -> Iterator[Session]:
    """The session of a verb, with its settings from overrides, YAML files and keywords."""
    row, given = VERBS[verb], _given(verb, overrides, settings)
    files = [word for word in given if _is_file(word)]
    words = [word for word in given if word not in files]
    env = configs.environment()
    config = configs.load([Path(file) for file in files], words, env)
    if row.reads("training.losses"):
        configs.require_files(config)
    with open_session(
        config, env, what=f"mv.{verb}", launched_by="python", lock=row.opens == "lock", yes=yes,
        words=given,
    ) as session:  # fmt: skip
        yield session


def _given(verb: str, overrides: Overrides, settings: dict[str, Any]) -> Overrides:
    """Files and settings as the command line takes them.

    Raises:
        UsageError: a setting that the verb does not use.
    """
    given = (*overrides, *(_override(verb, name, value) for name, value in settings.items()))
    for word in given:
        if not _is_file(word) and not VERBS[verb].reads(word.partition("=")[0]):
            _refuse(verb, word.partition("=")[0])
    return given


def _is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) and "=" not in word


def _page(shown: object, frame: pd.DataFrame) -> str:
    """A result in a notebook: its line, and its table."""
    from html import escape

    return f"<pre>{escape(repr(shown))}</pre>{frame.to_html(max_rows=20)}"


def _override(verb: str, name: str, value: Any) -> str:
    """`max_epochs=5` -> training.max_epochs=5, where one setting of the verb ends so."""
    keys = [key for key in configs.leaves() if VERBS[verb].reads(key)]
    found = [key for key in keys if key == name or key.rpartition(".")[2] == name]
    if len(found) > 1:
        raise UsageError(
            f"{name} may mean {', '.join(found)}.",
            remedy=f'name one: mv.{verb}(..., "{found[0]}=...")',
        )
    if not found:
        _refuse(verb, name)
    text = str(value) if isinstance(value, str | Path) else json.dumps(value)
    return f"{found[0]}={text}"


def _refuse(verb: str, name: str) -> NoReturn:
    keys = {key.rpartition(".")[2]: key for key in configs.leaves() if VERBS[verb].reads(key)}
    near = nearest(name.rpartition(".")[2], keys)
    raise UsageError(
        f"mv.{verb} does not use a setting {name!r}.",
        remedy=f"did you mean {keys[near]}?" if near else f"minivess help {verb}, which lists them",
    )


def _rooted(root: str | Path | None, overrides: Overrides) -> Overrides:
    return overrides if root is None else (f"data.root={root}", *overrides)


def _of(
    data: Dataset | str | Path | None, overrides: Overrides, verb: str
) -> tuple[Overrides, tuple[str, ...]]:
    """The settings and the upstream id of a dataset; a folder has no id yet."""
    if isinstance(data, Dataset):
        return (*_kept(data.overrides, verb), *overrides), (data.run_id,)
    return _rooted(data, overrides), ()


def _kept(overrides: Overrides, verb: str) -> Overrides:
    return tuple(
        word for word in overrides if "=" not in word or VERBS[verb].reads(word.partition("=")[0])
    )
