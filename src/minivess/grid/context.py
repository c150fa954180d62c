"""Inputs shared by all cells of a grid: local data, hardware, network and plan per model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from minivess import inference, names, networks
from minivess.compute import bf16_benchmark, choices, layout, out_of_memory
from minivess.compute import hardware as machine
from minivess.compute import plan as planner
from minivess.compute.reporting import forecast, peak_memory
from minivess.config import ModelConfig
from minivess.contracts import (
    Case,
    CellSpec,
    ComputePlan,
    DatasetProfile,
    Forecast,
    Hardware,
    Network,
    Shape,
)
from minivess.data.versions import curated, versioning
from minivess.errors import OutOfMemory
from minivess.grid import gpu_locks, initial_weights
from minivess.grid.families import Cell, Family
from minivess.orchestration.session import Session
from minivess.tracking.run.run import Run

IN_CHANNELS = 1
Watch = Callable[[int, int, dict[str, float]], None]
"""Called with fold, epoch and the metrics of that epoch; may raise to end the cell."""
log = logging.getLogger(__name__)


class ModelPlan(NamedTuple):
    """How one model runs on this machine, and what it costs once the probe has run."""

    network: Network
    plan: ComputePlan
    cost: Forecast | None = None


def _ignore(fold: int, epoch: int, metrics: dict[str, float]) -> None:
    """Default `Watch`: do nothing."""


@dataclass(frozen=True)
class GridContext:
    """Inputs shared by all cells of a grid.

    Args:
        models: plan of each model, by the model's name.
        watch: called after each epoch of each cell.
        gpus_locked: the process that started this one holds the GPU locks.
        timed: what was timed, by the model's name, patch, batch and window.
    """

    session: Session
    profile: DatasetProfile
    cases: dict[str, Case]
    hardware: Hardware
    models: dict[str, ModelPlan]
    watch: Watch = _ignore
    gpus_locked: bool = False
    timed: dict[tuple[str, Shape, int, Shape | None], forecast.Times] = field(default_factory=dict)

    def with_epochs(self, epochs: int) -> GridContext:
        """The grid with another number of epochs, and what was timed."""
        config = self.session.config
        training = config.training.model_copy(update={"max_epochs": epochs})
        changed = config.model_copy(update={"training": training})
        return replace(self, session=self.session.with_config(changed))

    def model(self, family: Family) -> ModelPlan:
        """The plan of a family's model."""
        return self.models[family.model.name]

    def spec(self, family: Family, cell: Cell) -> CellSpec:
        """Everything that decides the weights of one cell."""
        config, (network, plan, _) = self.session.config, self.model(family)
        train = [volume for volume in self.profile.volumes if volume.case in cell.fold.train]
        return CellSpec(
            key=cell.key,
            model=family.model.name,
            loss=family.loss,
            seed=family.seed,
            fold=cell.fold,
            network=network,
            window=inference.window_for(config, plan.window, train),
            patch_size=plan.patch_size,
            label_map=self.profile.label_map,
            classes=self.profile.classes,
            test=family.split.test,
        )

    @contextmanager
    def own_gpu(self, family: Family) -> Iterator[None]:
        """Hold the lock of one GPU while a cell trains in this process, unless it is held."""
        if self.gpus_locked or self.model(family).plan.device != "cuda":
            yield
            return
        config, folder = self.session.config, self.session.home.gpus
        # Torch uses the first one that it sees.
        first = gpu_locks.gpus_for(config, self.hardware, self.session.env)[:1]
        with ExitStack() as held:
            while gpu_locks.try_lock(folder, first, 1, held, what=config.experiment) is None:
                time.sleep(gpu_locks.WAIT_S)
            yield

    def smaller_plan(self, family: Family, plan: ComputePlan, *, n_train: int) -> ComputePlan:
        """The plan one step below one that ran out of memory, for `n_train` training volumes.

        Raises:
            OutOfMemory: nothing that may be changed is left.
        """
        return out_of_memory.smaller(
            plan,
            self.session.config,
            self.model(family).network,
            as_loaded(self.session, self.profile),
            n_train=n_train,
            cache=self.session.home.footprints,
        )

    @property
    def cells_at_once(self) -> int:
        """How many cells train side by side: as planned for one CPU, or one for each GPU."""
        laid_out = min((model.plan.parallel_cells for model in self.models.values()), default=1)
        return max(laid_out, gpu_locks.cells_at_once(self.hardware, self.session.config.training))

    def probe(self, families: Sequence[Family], *, cells: int | None = None) -> Forecast:
        """Forecast one model's families; lower the model's plan while the probe lacks memory.

        On a CPU the layout of the whole grid of `cells` cells is chosen, too.

        Raises:
            OutOfMemory: no smaller plan is left.
        """
        name, n_train = families[0].model.name, smallest_fold(families[0])
        while True:
            network, plan, _ = self.models[name]
            try:
                return self._forecast(families, cells)
            except OutOfMemory as error:
                following = self.smaller_plan(families[0], plan, n_train=n_train)
                log.warning("%s", error.problem)
            self.session.print(
                f"  {name} ran out of memory when it was tried; now "
                f"{out_of_memory.described(following)}"
            )
            self.models[name] = ModelPlan(network, following)
            out_of_memory.release()

    def _forecast(self, families: Sequence[Family], total: int | None) -> Forecast:
        session, (network, plan, _) = self.session, self.model(families[0])
        config, loaded = session.config, as_loaded(session, self.profile)
        n_train = [len(cell.fold.train) for family in families for cell in family.cells]
        cells = total or len(n_train)
        cached_gb = plan.cache_rate * choices.loaded_gb(network, loaded)
        most = layout.most_cells(config, plan, self.hardware, cells=cells, cached_gb=cached_gb)
        counts = layout.thread_counts(plan, self.hardware, most[0])
        what = (network.name, plan.patch_size, plan.batch_size, plan.prediction_window)
        if what not in self.timed:
            self.timed[what] = self._time(families, counts)
        times = self.timed[what]

        def cell_s(planned: ComputePlan) -> float:
            epoch = forecast.epoch_s(config, planned, loaded, times, n_train=n_train)
            return config.training.max_epochs * epoch

        plan = layout.fastest(plan, self.hardware, most, counts, cell_s, cells=cells)
        held_gb = peak_memory.held_gb()
        cost = forecast.forecast(
            config, network, plan, loaded, times, n_train=n_train, held_gb=held_gb
        )
        self.models[families[0].model.name] = ModelPlan(network, plan, cost)
        return cost

    def _time(self, families: Sequence[Family], counts: Sequence[int]) -> forecast.Times:
        """Time steps of each loss, with each number of threads."""
        from minivess.training import speed_probe

        network, plan, _ = self.model(families[0])
        self.session.print(f"  timing   {network.name}: a few steps, which takes up to a minute")
        by_loss = {family.loss.name: family for family in families}
        specs = [self.spec(family, family.cells[0]) for family in by_loss.values()]
        first, *others = counts
        with out_of_memory.typed(network, plan):
            return speed_probe.times(
                specs, plan.replace(threads=first), self.session.config, self.cases, others
            )


@dataclass(frozen=True)
class CellContext:
    """One fold of one family: what its training reads, and the parent run that it reports to."""

    grid: GridContext
    family: Family
    cell: Cell
    run: Run

    @property
    def session(self) -> Session:
        """The session of the command."""
        return self.grid.session

    @property
    def title(self) -> str:
        """Its name on screens, for example `dynunet_dice_ce fold 0`."""
        return self.family.title(self.cell)

    @property
    def folder(self) -> Path:
        """Where its plan, checkpoints and results lie."""
        return self.session.home.cells / self.cell.key


def prepare(
    session: Session,
    profile: DatasetProfile,
    families: Sequence[Family],
    cases: Mapping[str, Case] | None = None,
) -> GridContext:
    """Measure the machine, plan and check each model, and restore the data unless it is given.

    Raises:
        PlanError: a model does not fit the machine or the volumes.
    """
    hardware = measure_hardware(session)
    models: dict[str, ModelPlan] = {}
    for family in families:
        if family.model.name not in models:
            models[family.model.name] = plan_model(session, profile, hardware, family)
            initial_weights.fetch(session, models[family.model.name].network)
    found = restore(session, profile) if cases is None else dict(cases)
    return GridContext(session, profile, found, hardware, models)


def plan_model(
    session: Session, profile: DatasetProfile, hardware: Hardware, family: Family
) -> ModelPlan:
    """The network of a family's model and its plan on this machine."""
    loaded = as_loaded(session, profile)
    network = network_for(family.model, loaded)
    session.print(f"  planning {network.name}: the largest patch and batch that fit")
    plan = planner.resolve(
        session.config,
        network,
        loaded,
        hardware,
        n_train=smallest_fold(family),
        cache=session.home.footprints,
    )
    planner.guard(plan, loaded, hardware=hardware)
    # The plan says where folds of other sizes take other numbers of updates.
    sizes = sorted({len(fold.train) for fold in family.split.folds})
    if len(sizes) > 1 and session.config.training.iterations_per_epoch == "auto":
        choice = plan.choices["iterations_per_epoch"]
        more = f"; a fold of {sizes[-1]} volumes takes more, as many from each volume"
        longer = choice.replace(reason=choice.reason + more)
        plan = plan.replace(choices=plan.choices | {"iterations_per_epoch": longer})
    return ModelPlan(network, plan)


def smallest_fold(family: Family) -> int:
    """The number of training volumes that a family is planned for."""
    return min(len(fold.train) for fold in family.split.folds)


def network_for(model: ModelConfig, loaded: DatasetProfile) -> Network:
    """The network of a model, fitted to the smallest volume as it is loaded."""
    return networks.resolve(
        model,
        in_channels=IN_CHANNELS,
        out_channels=loaded.out_channels,
        min_shape=loaded.min_shape,
    )


def as_loaded(session: Session, profile: DatasetProfile) -> DatasetProfile:
    """The profile with the shapes that networks will see: native, unless resampling is on."""
    from minivess.data.profiling.profile import as_loaded

    return as_loaded(profile, session.config.data.resampling)


def measure_hardware(session: Session) -> Hardware:
    """What one cell may use of the machine, within the limits that the user set."""
    compute = session.config.compute
    found = machine.detect(
        ram_gb=compute.ram_gb, vram_gb=compute.vram_gb, env=session.env, disk=session.home.root
    )
    timed = bf16_benchmark.measured(found, cache=session.home.footprints)
    return gpu_locks.share(timed, session.config.training)


def restore(session: Session, profile: DatasetProfile) -> dict[str, Case]:
    """The curated volumes of exactly this version, by case, from here or from the DVC remote."""
    here = session.home.root / profile.dvc_file
    text = here.read_text(encoding="utf-8") if here.is_file() else ""
    if profile.dataset_hash not in text:
        text = session.store.read_text(str(profile.run_id), names.DVC_ARTIFACT)
    folder = versioning.restore(
        session.home,
        dataset=profile.dataset,
        dataset_hash=profile.dataset_hash,
        dvc_text=text,
        remote=session.home.translate(str(profile.remote)),
    )
    return {case.case: case for case in curated.curated_cases(folder, profile)}
