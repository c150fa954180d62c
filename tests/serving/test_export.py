from __future__ import annotations

from pathlib import Path

import onnx as onnx_format
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minivess import config as configs
from minivess import networks
from minivess.config import DeploymentConfig
from minivess.contracts import Case, Composition, Engine, Network, Part, Window
from minivess.errors import ServingError, TrainingError
from minivess.serving import export


def test_the_export_is_one_file_with_its_weights_inside(onnx: Path) -> None:
    model = onnx_format.load(onnx, load_external_data=False)
    assert [path.name for path in onnx.parent.iterdir()] == [onnx.name]
    assert all(len(weights.raw_data) > 0 for weights in model.graph.initializer)


def test_batch_and_size_are_dynamic_by_name(onnx: Path) -> None:
    graph = onnx_format.load(onnx).graph
    for tensor, channels in ((graph.input[0], 1), (graph.output[0], 3)):
        axes = [axis.dim_param or axis.dim_value for axis in tensor.type.tensor_type.shape.dim]
        assert axes == ["batch", channels, "x", "y", "z"]
    assert (graph.input[0].name, graph.output[0].name) == ("input", "output")


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=st.integers(1, 2), x=st.integers(2, 8), y=st.integers(2, 8), z=st.integers(5, 9))
def test_any_size_that_the_network_takes_gives_the_same_logits(
    network: Network, checkpoint: Path, onnx: Path, batch: int, x: int, y: int, z: int
) -> None:
    step = networks.divisor(network)
    volume = torch.randn(batch, 1, x * step[0], y * step[1], z * step[2])
    with torch.inference_mode():
        expected = networks.load(network, checkpoint)(volume)
    assert torch.allclose(export.forward(onnx)(volume), expected, atol=1e-3)


def test_parity_runs_over_whole_volumes_and_passes(
    checkpoint: Path, onnx: Path, cases: tuple[Case, ...], composition: Composition
) -> None:
    result = export.parity(
        composition, [checkpoint], [onnx], cases=cases, config=DeploymentConfig()
    )
    assert result.passed
    assert result.volumes == ("thin", "deep", "thin mirrored along x")
    assert result.max_logit_difference < 1e-3
    assert result.mask_agreement >= 0.9999


@pytest.mark.parametrize("name", ["resenc", "mednext"])
def test_the_residual_networks_are_exported_and_agree_on_whole_volumes(
    name: str, cases: tuple[Case, ...], window: Window, tmp_path: Path
) -> None:
    model = configs.model(name, {"filters": (4, 8, 8), "deep_supervision": True})
    network = networks.resolve(model, in_channels=1, out_channels=3, min_shape=(24, 24, 5))
    checkpoint = tmp_path / "best.pth"
    torch.save({"weights": networks.initial(network, seed=3).state_dict()}, checkpoint)
    onnx = export.to_onnx(network, checkpoint, tmp_path / "model.onnx")
    result = export.parity(
        Composition(parts=(Part(network=network, window=window),)),
        [checkpoint],
        [onnx],
        cases=cases,
        config=DeploymentConfig(),
    )
    assert result.passed


def test_another_networks_export_fails_parity_and_hands_on_its_figures(
    network: Network,
    onnx: Path,
    cases: tuple[Case, ...],
    composition: Composition,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other.pth"
    torch.save({"weights": networks.initial(network, seed=4).state_dict()}, other)
    with pytest.raises(export.ParityError, match="differs from the trained one") as caught:
        export.parity(composition, [other], [onnx], cases=cases, config=DeploymentConfig())
    assert caught.value.parity is not None
    assert not caught.value.parity.passed


def test_limits_of_the_configuration_decide_parity(
    checkpoint: Path, onnx: Path, cases: tuple[Case, ...], composition: Composition
) -> None:
    strict = DeploymentConfig(max_logit_difference=1e-12)
    remedy = r"limit 1e-12(.|\n)*deploy deployment\.max_logit_difference=\S+;"
    with pytest.raises(ServingError, match=remedy):
        export.parity(composition, [checkpoint], [onnx], cases=cases, config=strict)


def test_logits_are_compared_relative_to_their_range(
    network: Network,
    checkpoint: Path,
    cases: tuple[Case, ...],
    composition: Composition,
    tmp_path: Path,
) -> None:
    weights = networks.load(network, checkpoint).state_dict()
    last = [name for name in weights if "output_block" in name]
    torch.save(
        {"weights": weights | {name: weights[name] * 1e5 for name in last}}, tmp_path / "large.pth"
    )
    large = tmp_path / "large.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "TOLERANCE", 1.0)  # of the sizes tried beforehand
        export.to_onnx(network, tmp_path / "large.pth", large)
    result = export.parity(
        composition, [tmp_path / "large.pth"], [large], cases=cases, config=DeploymentConfig()
    )
    assert result.max_logit_difference > 1e-3
    assert result.relative_difference < 1e-5
    assert result.passed


def test_engines_are_timed_and_weighed(
    checkpoint: Path, onnx: Path, cases: tuple[Case, ...], composition: Composition
) -> None:
    engines = export.engines(composition, [checkpoint], [onnx], case=cases[0])
    served = [engine.name for engine in engines if engine.precision == "fp32"]
    assert served == ["torch", *export.installed()]
    assert all(engine.seconds_per_volume > 0 and engine.size_mb > 0 for engine in engines)
    assert all(engine.mask_agreement > 0.999 for engine in engines if engine.precision == "fp32")


def test_the_fastest_engine_in_float32_serves_unless_one_is_stated() -> None:
    def one(name: str, seconds: float, precision: str = "fp32") -> Engine:
        return Engine(name=name, precision=precision, size_mb=1, seconds_per_volume=seconds)

    measured = [one("torch", 1), one("onnxruntime", 2), one("openvino", 0.1, "bf16")]
    assert export.fastest(measured, "auto") == "onnxruntime"
    assert export.fastest(measured, "openvino") == "openvino"


def test_an_engine_that_is_not_installed_is_named_with_its_package(onnx: Path) -> None:
    if "openvino" in export.installed():
        pytest.skip("OpenVINO is installed")
    with pytest.raises(ServingError, match="pip install openvino"):
        export.forward(onnx, "openvino")


def test_openvino_computes_in_float32_and_passes_parity(
    checkpoint: Path, onnx: Path, cases: tuple[Case, ...], composition: Composition
) -> None:
    pytest.importorskip("openvino")
    result = export.parity(
        composition, [checkpoint], [onnx], cases=cases, config=DeploymentConfig(),
        engine="openvino",
    )  # fmt: skip
    assert result.relative_difference < 1e-4
    table = export.engines(composition, [checkpoint], [onnx], case=cases[0])
    fast = [one.seconds_per_volume for one in table if one.precision == "fp32"][1:]
    assert len(fast) == 2
    with pytest.raises(ServingError, match="cannot be run by OpenVINO"):
        export.forward(checkpoint, "openvino")


def test_a_size_frozen_into_the_export_is_refused(
    network: Network, checkpoint: Path, tmp_path: Path
) -> None:
    frozen = network.replace(builder="tests.serving.test_export:frozen_size")
    torch.save({"weights": {}}, tmp_path / "empty.pth")
    with pytest.raises(ServingError, match="frozen"):
        export.to_onnx(frozen, tmp_path / "empty.pth", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_damaged_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("not a model")
    with pytest.raises(ServingError, match=r"model\.onnx"):
        export.forward(tmp_path / "model.onnx")
    with pytest.raises(ServingError, match=r"absent\.onnx"):
        export.forward(tmp_path / "absent.onnx")


def test_a_checkpoint_of_another_network_is_refused(network: Network, tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "empty.pth")
    with pytest.raises(TrainingError):
        export.to_onnx(network, tmp_path / "empty.pth", tmp_path / "model.onnx")


class FrozenSize(torch.nn.Module):
    """Weighs voxels by a ramp whose length is a Python number while tracing."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        size = int(volume.shape[2])
        ramp = torch.arange(size, dtype=torch.float32) / size
        return volume.repeat(1, 3, 1, 1, 1) * ramp[: volume.shape[2], None, None].mean()


def frozen_size(_network: Network) -> torch.nn.Module:
    """A builder whose export is right for one size only."""
    return FrozenSize()
