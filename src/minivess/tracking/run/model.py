"""MLflow model of a trained network: code, weights and settings, without pickle.

A folder that `mlflow.pyfunc.load_model` opens. It takes raw volumes (B, C_in, X, Y, Z) of any
size and returns the probabilities (B, C_out, X, Y, Z) that the validation of its training saw.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.model import PythonModel
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray

from minivess import combination, files, keys, names, networks
from minivess.contracts import Composition, Network, Part, Shape, Window
from minivess.data.profiling import admission
from minivess.errors import DataError, StoreError
from minivess.inference import Predictor
from minivess.tracking.run import ensemble
from minivess.tracking.run.environment import package_version
from minivess.tracking.run.run import Run
from minivess.tracking.store import registry
from minivess.tracking.store.store import Store

CONFIG, CHECKPOINT = "model_config.json", "checkpoint.pth"
WEIGHTS = f"weights{networks.SAFE_SUFFIX}"
"""The weights in a format that cannot contain code; this file is loaded elsewhere."""
REQUIREMENTS = ("mlflow", "torch", "monai", "numpy", "pydantic", "PyYAML", "safetensors")
EXAMPLE_SIDE = 16
Array = NDArray[np.float32]


def save(
    folder: Path,
    *,
    network: Network,
    window: Window,
    checkpoint: Path,
    example: Shape | None = None,
) -> Path:
    """Write the model folder.

    Args:
        example: shape (X, Y, Z) of the input example; default: the patch, at most 16 per axis.

    Raises:
        StoreError: the checkpoint is absent.
    """
    if not checkpoint.is_file():
        raise StoreError(
            f"There is no checkpoint {checkpoint} to build a model from.",
            remedy="train that cell again: training.retrain=always",
        )
    shape = (1, network.in_channels, *(example or _small(window.patch_size)))
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        settings = Path(temporary) / CONFIG
        weights = Path(temporary) / CHECKPOINT
        files.write_json(
            settings, {"network": network.model_dump(mode="json"), "window": window.model_dump()}
        )
        _place(checkpoint, weights)
        safe = _without_pickle(checkpoint, Path(temporary) / WEIGHTS)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={
                "model_config": str(settings),
                "checkpoint": str(weights),
                "weights": str(safe),
            },
            code_paths=[str(files.copy_package(Path(temporary))), *_own_code(network.builder)],
            signature=signature(network),
            input_example=np.arange(math.prod(shape), dtype=np.float32).reshape(shape),
            pip_requirements=requirements(),
        )
    return folder


def log_model(run: Run, *, network: Network, window: Window, checkpoint: Path) -> None:
    """Store the model as the artifact `model` of a run; sizes are verified."""
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        folder = Path(temporary) / names.MODEL_ARTIFACT
        save(folder, network=network, window=window, checkpoint=checkpoint)
        run.folder(folder, names.MODEL_ARTIFACT)


def log_ensemble(run: Run, members: ensemble.Members) -> None:
    """Store an ensemble as the artifact `model` of a run: the names of its members, no weights."""
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        folder = Path(temporary) / names.MODEL_ARTIFACT
        config = files.write_json(
            Path(temporary) / ensemble.CONFIG, members.model_dump(mode="json")
        )
        first = members.members[0]
        volumes, shape = signature(first.network), _small(first.window.patch_size)
        example = np.zeros((1, first.network.in_channels, *shape), np.float32)
        fold = ParamSchema([ParamSpec("fold", DataType.long, ensemble.EVERY_FOLD)])
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={"ensemble_config": str(config)},
            code_paths=[str(files.copy_package(Path(temporary)))],
            signature=ModelSignature(volumes.inputs, volumes.outputs, fold),
            input_example=(example, {"fold": ensemble.EVERY_FOLD}),
            pip_requirements=requirements(),
        )
        run.folder(folder, names.MODEL_ARTIFACT)


def load(store: Store, name: str, alias: str) -> PyFuncModel:
    """Load the registered model of an alias."""
    found = registry.by_alias(store, name, alias)
    into = store.home.served / "champions" / found.run_id
    folder = store.download(found.run_id, names.MODEL_ARTIFACT, into)
    loaded: PyFuncModel = mlflow.pyfunc.load_model(str(folder))
    return loaded


def fetch(store: Store, run_id: str) -> tuple[Network, Window, Path]:
    """Return network, window and weights of the model that a training run holds."""
    folder = store.home.served / "champions" / run_id
    return parts(store.download(run_id, names.MODEL_ARTIFACT, folder))


class Trained(NamedTuple):
    """The networks of a registered model, with the weights of each on this machine."""

    composition: Composition
    checkpoints: tuple[Path, ...]


def trained(store: Store, run_id: str) -> Trained:
    """Return the networks of the model that a training or an ensemble run holds."""
    folder = store.home.served / "champions" / run_id
    held = store.download(run_id, names.MODEL_ARTIFACT, folder)
    if not ensemble.is_ensemble(held):
        network, window, checkpoint = parts(held)
        return Trained(Composition(parts=(Part(network=network, window=window),)), (checkpoint,))
    members = ensemble.read(held)
    found, checkpoints = [], []
    for number, voter in enumerate(members.voters()):
        for averaged in voter:
            first = averaged[0]
            found.append(Part(network=first.network, window=first.window, voter=number))
            fetched = [
                store.download(one.run_id, one.artifact, folder / one.run_id) for one in averaged
            ]
            target = folder / f"soup_{first.run_id}.pth"
            checkpoints.append(combination.stored(first.network, fetched, target))
    return Trained(Composition(parts=tuple(found), how=members.how), tuple(checkpoints))


def parts(folder: Path) -> tuple[Network, Window, Path]:
    """Return network, window and weights of a model folder.

    Raises:
        StoreError: the folder is not a model of this product.
    """
    found = {path.name: path for path in (folder / "artifacts").glob("*")}
    if not {CONFIG, CHECKPOINT} <= set(found):
        raise StoreError(
            f"{folder} holds no {CONFIG} and {CHECKPOINT}.",
            remedy="give the model folder of a training run",
        )
    values = json.loads(found[CONFIG].read_text(encoding="utf-8"))
    network, window = (
        Network.model_validate(values["network"]),
        Window.model_validate(values["window"]),
    )
    # Models of release 0.1 have the checkpoint alone.
    return network, window, found.get(WEIGHTS, found[CHECKPOINT])


def requirements() -> list[str]:
    """Return the packages that a model needs, with their versions here."""
    return [f"{name}=={package_version(name)}" for name in REQUIREMENTS]


def _small(patch: Shape) -> Shape:
    """Shape of an example that is small as JSON."""
    x, y, z = (min(side, EXAMPLE_SIDE) for side in patch)
    return x, y, z


def _place(checkpoint: Path, weights: Path) -> None:
    """Hard-link or copy the checkpoint."""
    try:
        weights.hardlink_to(checkpoint)
    except OSError:
        shutil.copyfile(checkpoint, weights)


def _without_pickle(checkpoint: Path, target: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["weights"]
    # safetensors refuses shared memory, so shared weights are written once per layer.
    save_file({name: weight.contiguous().clone() for name, weight in stored.items()}, target)
    return target


def signature(network: Network) -> ModelSignature:
    """Return shapes and types of raw volumes and probabilities."""

    def volume(channels: int, name: str) -> Schema:
        return Schema([TensorSpec(np.dtype(np.float32), (-1, channels, -1, -1, -1), name)])

    return ModelSignature(
        volume(network.in_channels, "input"), volume(network.out_channels, "output")
    )


def _own_code(builder: str) -> list[str]:
    """Return the module or package of a user's own network; [] for known packages."""
    top = builder.partition(":")[0].partition(".")[0]
    spec = None if top in keys.KNOWN_PACKAGES else importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return []
    file = Path(spec.origin)
    return [str(file.parent if file.name == "__init__.py" else file)]


class Segmenter(PythonModel):
    """Predict class probabilities of raw volumes with the sliding window of training."""

    def load_context(self, context: Any) -> None:
        """Build the network from the model's files; use a GPU if there is one."""
        import torch

        folder = Path(next(iter(context.artifacts.values()))).parent.parent
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.ensemble = None
        self.predictor: combination.Segmenting
        if ensemble.is_ensemble(folder):
            self.ensemble = ensemble.EnsemblePredictor.of(folder, device)
            self.predictor = self.ensemble.combined()
        else:
            network, window, checkpoint = parts(folder)
            self.predictor = Predictor.of(network, window, checkpoint, device=device)

    # MLflow takes other type hints than a bare array for a schema, and warns of a missing one.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Array:
        """(B, C_in, X, Y, Z) raw intensities -> (B, C_out, X, Y, Z) probabilities.

        Args:
            params: of an ensemble `fold`, to use the networks of one fold alone.

        Raises:
            DataError: a volume that `profile` would quarantine; its place, code and remedy.
        """
        volumes = model_input["input"] if isinstance(model_input, dict) else model_input
        for place, volume in enumerate(volumes):
            self._admit(np.asarray(volume), place)
        fold = int((params or {}).get("fold", ensemble.EVERY_FOLD))
        asked = self.ensemble.combined(fold) if self.ensemble else self.predictor
        return np.stack([asked.probabilities(np.asarray(one)) for one in volumes])

    def _admit(self, volume: Array, place: int) -> None:
        """Reject volumes that cannot be segmented; warn about unusual ones."""
        if volume.ndim != 4 or len(volume) != self.predictor.in_channels:
            raise DataError(
                f"wrong_dimensions: volume {place} has shape {volume.shape}, not "
                f"({self.predictor.in_channels}, X, Y, Z).",
                remedy="give an array (B, C, X, Y, Z) of raw intensities",
                code="wrong_dimensions",
            )
        if self.predictor.window.resampling is not None:
            raise DataError(
                "The network was trained on resampled volumes, and an array has no voxel size.",
                remedy="segment the file with `minivess predict`, or ask the service for it",
            )
        reach = admission.check_reach(volume.shape[1:], self.predictor.divisor)
        for channel in volume:
            try:
                odd = admission.admit([*admission.check_array(channel), *reach])
            except DataError as error:
                problem = f"{error.code}: volume {place} of the batch: {error.problem}"
                raise DataError(problem, remedy=error.remedy, code=error.code) from error
            for found in odd:
                warnings.warn(f"{found.code}: volume {place}: {found.message}", stacklevel=2)
