"""Export a trained network to ONNX with dynamic axes, and check its parity."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from minivess import combination, files, inference, networks
from minivess.config import DeploymentConfig, ResamplingConfig
from minivess.contracts import Case, Composition, Engine, EngineName, Network, Parity, Shape, Window
from minivess.errors import ServingError
from minivess.formats import volume
from minivess.inference import Predictor
from minivess.serving import model_record, predict

if TYPE_CHECKING:
    import torch

Forward = Callable[["torch.Tensor"], "torch.Tensor"]
Image = npt.NDArray[np.float32]

INPUT, OUTPUT = "input", "output"
OPSET = 17
AXES = {0: "batch", 2: "x", 3: "y", 4: "z"}
TOLERANCE = 1e-3
SMALLEST_SIDE = 16
MIRRORS = ((), (1,), (2,), (3,))

logger = logging.getLogger(__name__)


class ParityError(ServingError):
    """The exported network gives other results; `parity` holds the figures."""

    parity: Parity | None = None


# --- export -------------------------------------------------------------------------------


def to_torchscript(network: Network, checkpoint: Path, path: Path) -> Path:
    """Trace the weights of a checkpoint into one file, which torch alone loads.

    Raises:
        ServingError: the network works only for the traced size.
    """
    import torch

    module = networks.load(network, checkpoint)
    traced, *others = _sizes(networks.divisor(network))

    def fill(temporary: Path) -> None:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.jit.trace(module, _noise(network, traced)).save(temporary)
        _compare(module, torchscript(temporary), network, others)

    return files.write(path, fill)


def torchscript(path: Path) -> Forward:
    """Load a traced network as a function of a tensor (B, C, X, Y, Z), on the CPU."""
    import torch

    return cast(Forward, torch.jit.load(path, map_location="cpu").eval())


def _compare(module: torch.nn.Module, run: Forward, network: Network, sizes: list[Shape]) -> None:
    for batch, size in enumerate(sizes, start=1):
        _compare_once(module, run, _noise(network, size, batch))


def to_onnx(network: Network, checkpoint: Path, path: Path) -> Path:
    """Export the weights of a checkpoint to one file, with dynamic batch and size.

    Input `input` (B, C, X, Y, Z) float32, output `output` (B, C_out, X, Y, Z) logits.
    The file is tested on sizes other than the traced one.

    Raises:
        ServingError: the network cannot be exported, or works only for the traced size.
    """
    module = networks.load(network, checkpoint)
    divisor = networks.divisor(network)
    traced, *others = _sizes(divisor)

    def fill(temporary: Path) -> None:
        _export(module, _noise(network, traced), temporary)
        _check(temporary)
        _compare(module, forward(temporary), network, others)

    return files.write(path, fill)


def each(
    model: Composition,
    checkpoints: Sequence[Path],
    folder: Path,
    name: str = model_record.ONNX,
    write: Callable[[Network, Path, Path], Path] = to_onnx,
) -> tuple[Path, ...]:
    """Export every network of a model into a folder."""
    files = model_record.network_files(model, folder, name)
    return tuple(
        write(part.network, checkpoint, path)
        for part, checkpoint, path in zip(model.parts, checkpoints, files, strict=True)
    )


def _export(module: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    import torch

    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter without dynamo writes one file and takes a fraction of a second.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(path),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: AXES, OUTPUT: AXES},
                opset_version=OPSET,
                dynamo=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as error:
        raise ServingError(
            f"The network cannot be exported to ONNX: {error}",
            remedy="deploy a network built from exportable layers (configs/models/dynunet.yaml)",
        ) from error


def _check(path: Path) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    outside = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if outside:
        raise ServingError(
            f"The export left {len(outside)} weights outside of {path.name}.",
            remedy="deploy a network below 2 GB, the limit of one ONNX file",
        )
    onnx.checker.check_model(model, full_check=True)


def _sizes(divisor: Shape) -> Iterator[Shape]:
    """Yield the traced size, then others that differ in each axis, with the thinnest Z possible."""
    for extra in ((0, 0, 0), (1, 2, 1), (2, 0, -1)):
        sides = []
        for axis, (step, more) in enumerate(zip(divisor, extra, strict=True)):
            least = 2 if axis == 2 else -(-SMALLEST_SIDE // step)
            sides.append(step * max(2, least + more))
        yield (sides[0], sides[1], sides[2])


def _noise(network: Network, size: Shape, batch: int = 1) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn((batch, network.in_channels, *size), generator=generator)


def _compare_once(module: torch.nn.Module, run: Forward, example: torch.Tensor) -> None:
    import torch

    with torch.inference_mode():
        expected = module(example)
    got = run(example)
    same = got.shape == expected.shape
    if not same or not torch.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise ServingError(
            f"The exported network answers a {tuple(example.shape[2:])} volume unlike the "
            "trained one: a size was frozen into the export.",
            remedy="use modules that compute sizes from tensors, or configs/models/dynunet.yaml",
        )


# --- running ------------------------------------------------------------------------------


def installed() -> tuple[EngineName, ...]:
    """Return the engines that this environment has."""
    more = importlib.util.find_spec("openvino") is not None
    return ("onnxruntime", "openvino") if more else ("onnxruntime",)


def forward(path: Path, engine: EngineName = "onnxruntime", precision: str = "fp32") -> Forward:
    """Load the exported network as a function of a tensor (B, C, X, Y, Z), on the CPU.

    Args:
        precision: `bf16` for OpenVINO only; nothing computes in it unless it is named.

    Raises:
        ServingError: the file is absent, damaged, or not an ONNX model, or the engine is absent.
    """
    if engine not in installed():
        raise ServingError(
            f"The engine {engine} is not installed.",
            remedy="pip install openvino, or deployment.engine=onnxruntime",
        )
    return _openvino(path, precision) if engine == "openvino" else _onnxruntime(path)


def _openvino(path: Path, precision: str) -> Forward:
    import openvino
    import torch

    # Left to itself, OpenVINO computes in bf16 where the CPU has it.
    how = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        model = openvino.Core().compile_model(path, "CPU", how)
    except RuntimeError as error:
        raise ServingError(
            f"{path} cannot be run by OpenVINO: {str(error)[:300]}",
            remedy="minivess deploy deployment.engine=onnxruntime",
        ) from error

    def run(part: torch.Tensor) -> torch.Tensor:
        found = model({INPUT: part.cpu().contiguous().numpy()})
        return torch.from_numpy(np.array(found[OUTPUT]))

    return run


def _onnxruntime(path: Path) -> Forward:
    import onnxruntime
    import torch
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    damaged = (ort.Fail, ort.InvalidProtobuf, ort.InvalidGraph, ort.NoSuchFile, ort.InvalidArgument)
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except damaged as error:
        raise ServingError(
            f"{path} cannot be run as an ONNX model: {error}",
            remedy="export it again with `minivess deploy`",
        ) from error

    def run(part: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: part.cpu().contiguous().numpy()})
        return torch.from_numpy(logits)

    return run


def kept_forward(network: Network, checkpoint: Path, path: Path) -> Forward:
    """Load an exported network; export it first if it is absent or damaged."""
    try:
        return forward(path)
    except ServingError:
        return forward(to_onnx(network, checkpoint, path))


# --- parity -------------------------------------------------------------------------------


def parity(
    model: Composition,
    checkpoints: Sequence[Path],
    onnx: Sequence[Path],
    *,
    cases: Sequence[Case],
    config: DeploymentConfig,
    engine: EngineName = "onnxruntime",
) -> Parity:
    """Run each network, trained and exported, over whole volumes; compare logits and masks.

    Logits are compared relative to their range in the volume, because rounding grows with them.
    If there are too few volumes, mirrored copies are added.

    Raises:
        ParityError: beyond the limits of `config`; its attribute `parity` holds the figures.
    """
    found = []
    for part, checkpoint, file in zip(model.parts, checkpoints, onnx, strict=True):
        trained = Predictor.of(part.network, part.window, checkpoint)
        exported = Predictor.of(part.network, part.window, forward(file, engine))
        found += [
            (name, _difference(trained.logits(image), exported.logits(image)))
            for name, image in _images(cases, part.window, config.parity_volumes)
        ]
    agreement = min(one.agreement for _, one in found)
    relative = max(one.relative for _, one in found)
    result = Parity(
        volumes=tuple(dict(found)),
        max_logit_difference=max(one.logits for _, one in found),
        relative_difference=relative,
        mask_agreement=agreement,
        largest_margin=max(one.margin for _, one in found),
        passed=relative <= config.max_logit_difference and agreement >= config.min_mask_agreement,
    )
    if not result.passed:
        raise _unlike(result, config)
    return result


class Difference(NamedTuple):
    """How two networks differ on one volume; the fields of `Parity`."""

    logits: float
    relative: float
    agreement: float
    margin: float


def _difference(ours: Image, theirs: Image) -> Difference:
    gap = float(np.abs(ours - theirs).max())
    if not np.isfinite(gap):  # NaN compares false with every limit; it must fail
        worst = float(np.finfo("f4").max)
        return Difference(worst, worst, 0.0, worst)
    differs = inference.mask(ours) != inference.mask(theirs)
    second, first = np.sort(ours[:, differs], axis=0)[-2:] if differs.any() else np.zeros((2, 1))
    span = float(np.ptp(ours)) or 1.0
    return Difference(gap, gap / span, 1 - float(differs.mean()), float((first - second).max()))


def engines(
    model: Composition, checkpoints: Sequence[Path], onnx: Sequence[Path], *, case: Case
) -> tuple[Engine, ...]:
    """Measure seconds per volume, size on disk and agreement with PyTorch of each engine."""
    image = predict.as_trained(volume.read_volume(case.image), model.window)
    runs = [(engine, "fp32") for engine in installed()]
    runs += [("openvino", "bf16")] * ("openvino" in installed())
    rivals = [("torch", "fp32", checkpoints, combination.segmenting(model, checkpoints))] + [
        (engine, precision, onnx,
         combination.segmenting(model, [forward(file, engine, precision) for file in onnx]))
        for engine, precision in runs
    ]  # fmt: skip
    found, expected = [], None
    for name, precision, held, predictor in rivals:
        seconds, mask = _timed(predictor, image)
        expected = mask if expected is None else expected
        found.append(
            Engine(
                name=name,
                precision=precision,
                size_mb=sum(file.stat().st_size for file in held) / 2**20,
                seconds_per_volume=seconds,
                mask_agreement=float((mask == expected).mean()),
            )
        )
    return tuple(found)


def fastest(measured: Sequence[Engine], asked: EngineName | Literal["auto"]) -> EngineName:
    """Return the engine to serve with: the one asked for, else the fastest in float32."""
    if asked != "auto":
        return asked
    able = [one for one in measured if one.name in installed() and one.precision == "fp32"]
    return cast(EngineName, min(able, key=lambda one: one.seconds_per_volume).name)


def _images(cases: Sequence[Case], window: Window, n: int) -> Iterator[tuple[str, Image]]:
    """Yield `n` normalised images (1, X, Y, Z): the cases, then mirrored copies of them."""
    wanted = itertools.islice(itertools.product(MIRRORS, cases), n)
    resampling = ResamplingConfig.of(window.resampling)
    for axes, case in wanted:
        image, _, _ = volume.load(case.replace(label=None), label_map={}, resampling=resampling)
        name = case.case + "".join(f" mirrored along {'xyz'[axis - 1]}" for axis in axes)
        normalised = inference.normalise(image, window)
        yield name, np.ascontiguousarray(np.flip(normalised, axes))


def _timed(predictor: combination.Segmenting, image: Image) -> tuple[float, npt.NDArray[np.uint8]]:
    """The faster of two runs, because the first includes warm-up, and the mask."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        mask = predictor.segment(image)
        seconds.append(time.perf_counter() - started)
    return min(seconds), mask


def _unlike(result: Parity, config: DeploymentConfig) -> ParityError:
    wider = []
    if result.relative_difference > config.max_logit_difference:
        wider.append(f"deployment.max_logit_difference={result.relative_difference * 2:.1g}")
    if result.mask_agreement < config.min_mask_agreement:
        wider.append(f"deployment.min_mask_agreement={result.mask_agreement * 0.99999:.6f}")
    error = ParityError(
        f"The exported network differs from the trained one on {', '.join(result.volumes)}: "
        f"logits by up to {result.max_logit_difference:.2g}, {result.relative_difference:.2g} of "
        f"their range (limit {config.max_logit_difference:g}), masks agree on "
        f"{result.mask_agreement:.4%} (limit {config.min_mask_agreement:.2%}); the trained network "
        f"preferred the other class by up to {result.largest_margin:.2g}.",
        remedy=f"if these masks are close enough, minivess deploy {' '.join(wider)}; else deploy a "
        "network of configs/models whose layers ONNX has",
    )
    error.parity = result
    return error
