"""What all cells of a grid stand on: the data in place, a network and a plan for each model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from minivess import names
from minivess.config import ModelConfig
from minivess.contracts import (
    Case,
    CellSpec,
    ComputePlan,
    DatasetProfile,
    Forecast,
    Hardware,
    Network,
    Window,
)
from minivess.errors import OutOfMemory
from minivess.grid.families import Cell, Family
from minivess.orchestration.session import Session

IN_CHANNELS = 1
Watch = Callable[[int, int, dict[str, float]], None]
"""Called with fold, epoch and the metrics of that epoch."""
log = logging.getLogger(__name__)


def _nobody(fold: int, epoch: int, metrics: dict[str, float]) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Ground:
    """The curated volumes on this machine, and how each model will be run on them."""

    profile: DatasetProfile
    cases: dict[str, Case]
    hardware: Hardware
    models: dict[str, tuple[Network, ComputePlan]]
    costs: dict[str, Forecast] = field(default_factory=dict)
    """Model -> forecast, once the probe has run."""
    watch: Watch = _nobody
    """Who looks on, epoch by epoch, and may raise to end a cell."""
    booked: bool = False
    """Whether whoever started this process has booked its GPUs."""

    def window(self, session: Session, model: str) -> Window:
        """How this model is run over whole volumes."""
        return Window(
            patch_size=self.models[model][1].patch_size,
            overlap=session.config.training.sliding_window_overlap,
            normalisation=session.config.data.normalisation,
        )

    def spec(self, session: Session, family: Family, cell: Cell) -> CellSpec:
        """Everything that decides the weights of one cell."""
        network, _ = self.models[family.model.name]
        return CellSpec(
            key=cell.key,
            model=family.model.name,
            loss=family.loss,
            seed=family.seed,
            fold=cell.fold,
            network=network,
            window=self.window(session, family.model.name),
            label_map=self.profile.label_map,
            classes=self.profile.classes,
            test=family.split.test,
        )


def prepare(session: Session, profile: DatasetProfile, families: Sequence[Family]) -> Ground:
    """Put the data in place, measure the machine, and plan each model; guards run here."""
    hardware = measure_hardware(session)
    models = {}
    for family in families:
        if family.model.name not in models:
            models[family.model.name] = planned(session, profile, hardware, family)
    return Ground(profile, restore(session, profile), hardware, models)


@contextmanager
def own_gpu(session: Session, ground: Ground, model: str) -> Iterator[None]:
    """While a cell trains in this process: its GPU, booked unless that was done for us."""
    from minivess.grid import gpu_locks

    if ground.booked or ground.models[model][1].device != "cuda":
        yield
        return
    # Torch uses the first one that it sees.
    first = gpu_locks.gpus_for(session.config, ground.hardware, session.env)[:1]
    with gpu_locks.booked(session.home.gpus, first, 1, what=session.config.experiment):
        yield


def planned(
    session: Session, profile: DatasetProfile, hardware: Hardware, family: Family
) -> tuple[Network, ComputePlan]:
    """The resolved network of a family and its plan on this machine."""
    from minivess.compute import plan

    loaded = as_loaded(session, profile)
    network = network_for(family.model, loaded)
    chosen = plan.resolve(
        session.config,
        network,
        loaded,
        hardware,
        n_train=n_train(family),
        cache=session.home.footprints,
    )
    plan.guard(chosen, loaded, hardware=hardware)
    return network, _with_reason(chosen, session, family)


def _with_reason(plan: ComputePlan, session: Session, family: Family) -> ComputePlan:
    """The plan says where folds of other sizes take other numbers of updates."""
    sizes = sorted({len(fold.train) for fold in family.split.folds})
    choice = plan.choices["iterations_per_epoch"]
    if len(sizes) == 1 or session.config.training.iterations_per_epoch != "auto":
        return plan
    reason = f"{choice.reason}; a fold of {sizes[-1]} volumes takes more, as many from each volume"
    return plan.replace(
        choices=plan.choices | {"iterations_per_epoch": choice.replace(reason=reason)}
    )


def n_train(family: Family) -> int:
    """The number of training volumes that a family is planned for: those of its smallest fold."""
    return min(len(fold.train) for fold in family.split.folds)


def smaller(
    session: Session, ground: Ground, family: Family, plan: ComputePlan, *, n_train: int
) -> ComputePlan:
    """The plan one step below one that ran out of memory, for `n_train` volumes that train.

    Raises:
        OutOfMemory: nothing that may be changed is left.
    """
    from minivess.compute import out_of_memory

    loaded = as_loaded(session, ground.profile)
    network, _ = ground.models[family.model.name]
    return out_of_memory.smaller(
        plan,
        session.config,
        network,
        loaded,
        n_train=n_train,
        cache=session.home.footprints,
    )


def network_for(model: ModelConfig, loaded: DatasetProfile) -> Network:
    """The network of a model, fitted to the smallest volume as it is loaded."""
    from minivess import networks

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
    from minivess.compute import bf16_benchmark, hardware
    from minivess.grid import gpu_locks

    compute = session.config.compute
    found = hardware.detect(
        ram_gb=compute.ram_gb, vram_gb=compute.vram_gb, env=session.env, disk=session.home.root
    )
    timed = bf16_benchmark.measured(found, cache=session.home.footprints)
    return gpu_locks.share(timed, session.config.training)


def restore(session: Session, profile: DatasetProfile) -> dict[str, Case]:
    """The curated volumes of exactly this version, from here or from the DVC remote."""
    from minivess.data.versions import curated, versioning

    here = session.home.root / profile.dvc_file
    if here.is_file() and profile.dataset_hash in here.read_text(encoding="utf-8"):
        text = here.read_text(encoding="utf-8")
    else:
        text = session.store.read_text(str(profile.run_id), names.DVC_ARTIFACT)
    folder = versioning.restore(
        session.home,
        dataset=profile.dataset,
        dataset_hash=profile.dataset_hash,
        dvc_text=text,
        remote=session.home.resident(str(profile.remote)),
    )
    return {case.case: case for case in curated.cases_of(folder, profile)}


def probed(session: Session, ground: Ground, families: Sequence[Family]) -> Forecast:
    """The forecast of one model's families; its plan gets smaller while the probe lacks memory.

    Raises:
        OutOfMemory: no smaller plan is left.
    """
    from minivess.compute import out_of_memory

    name = families[0].model.name
    while True:
        network, plan = ground.models[name]
        try:
            return forecast(session, ground, families)
        except OutOfMemory as error:
            following = smaller(session, ground, families[0], plan, n_train=n_train(families[0]))
            log.warning("%s", error.problem)
        session.say(
            f"  {name} ran out of memory when it was tried; now "
            f"{out_of_memory.described(following)}"
        )
        ground.models[name] = network, following
        out_of_memory.release()


def forecast(session: Session, ground: Ground, families: Sequence[Family]) -> Forecast:
    """Hours, memory and disk of one model's families, from a probe on the first real batch.

    Raises:
        OutOfMemory: not even the probe's steps get the memory that the plan takes.
    """
    from minivess.compute import out_of_memory
    from minivess.compute.reporting import forecast as forecasts
    from minivess.compute.reporting import peak_memory
    from minivess.training import speed_probe

    network, plan = ground.models[families[0].model.name]
    by_loss = {family.loss.name: family for family in families}
    specs = [ground.spec(session, family, family.cells[0]) for family in by_loss.values()]
    with out_of_memory.typed(network, plan):
        times = speed_probe.times(specs, plan, session.config, ground.cases)
    return forecasts.forecast(
        session.config,
        network,
        plan,
        as_loaded(session, ground.profile),
        times,
        cells=sum(len(family.cells) for family in families),
        held_gb=peak_memory.held_gb(),
    )
