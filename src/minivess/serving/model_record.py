"""Record of a served model: network, window, lineage, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from minivess import combination, files, networks
from minivess.contracts import (
    Composition,
    Domain,
    EngineName,
    Network,
    Part,
    Risk,
    Shape,
    Uncertainty,
    Versioned,
    Window,
)
from minivess.errors import ServingError

CONFIG = "model_config.json"
ONNX = "model.onnx"
HEADER = "X-Minivess-"
WARNINGS = "Minivess-Warnings"


class ServedModel(Versioned):
    """A served model: network, window, lineage and limits."""

    name: str
    version: str
    network: Network
    window: Window
    divisor: Shape
    ensemble: Composition | None = Field(default=None, description="where several networks serve")
    classes: tuple[int, ...] = Field(description="label value of each output channel")
    lineage: dict[str, str] = Field(description="run ids and hashes, back to the data")
    max_upload_mb: int = 1024
    max_voxels: int = Field(default=2**27, description="about 4 GiB of memory with two classes")
    max_waiting: int = Field(default=64, description="uploads held at once; one runs at a time")
    max_wait_s: float = Field(default=600, description="seconds that an upload may have to wait")
    request_limit_s: float | None = Field(
        default=None, description="seconds that the network may take for a request; jobs have none"
    )
    engine: EngineName = "onnxruntime"
    domain: Domain | None = Field(default=None, description="what the network was trained on")
    out_of_range: Literal["warn", "refuse"] = "warn"
    uncertainty: Uncertainty | None = Field(
        default=None, description="temperature and thresholds, from predictions out of fold"
    )

    @classmethod
    def of(cls, model: Composition, **fields: Any) -> ServedModel:
        """Return the record of a model; without `classes` the channel is the label value."""
        first = model.parts[0]
        fields.setdefault("classes", tuple(range(first.network.out_channels)))
        return cls(
            network=first.network,
            window=first.window,
            divisor=combination.divisor([networks.divisor(one.network) for one in model.parts]),
            ensemble=model if len(model.parts) > 1 else None,
            **fields,
        )

    @property
    def composition(self) -> Composition:
        """The network, or those of the ensemble."""
        alone = Part(network=self.network, window=self.window)
        return self.ensemble or Composition(parts=(alone,))

    @property
    def label(self) -> str:
        """`name:version`, as in metrics and responses."""
        return f"{self.name}:{self.version}"

    @property
    def risks(self) -> tuple[Risk, ...]:
        """The thresholds with a stated risk; none where no analysis has measured them."""
        return self.uncertainty.risks if self.uncertainty else ()

    def headers(self) -> dict[str, str]:
        """Return model and lineage ids as HTTP headers, such as X-Minivess-Dataset-Hash."""
        ids = {"model": self.label, **self.lineage}
        return {
            HEADER + name.replace("_", "-").title(): value.encode("ascii", "replace").decode()
            for name, value in ids.items()
        }


def network_files(model: Composition, folder: Path, name: str = ONNX) -> tuple[Path, ...]:
    """Return the exported networks of a model in a folder: model.onnx, model_1.onnx, ..."""
    first = folder / name
    more = (first.with_stem(f"{first.stem}_{number}") for number in range(1, len(model.parts)))
    return (first, *more)


def read(folder: Path) -> ServedModel:
    """Read the record of a service folder.

    Raises:
        ServingError: there is no valid record.
    """
    path = folder / CONFIG
    try:
        return ServedModel.model_validate(files.read_json(path))
    except (OSError, ValueError) as error:
        raise ServingError(
            f"{path} is not a valid model record ({error}).",
            remedy="build the service again with `minivess deploy`",
        ) from error


def write(folder: Path, model: ServedModel) -> Path:
    """Write the record into a service folder."""
    return files.write_json(folder / CONFIG, model.model_dump(mode="json"))


def lineage_of(headers: dict[str, str]) -> dict[str, str]:
    """Return model and lineage ids from a response's headers, under their original names."""
    prefix = HEADER.lower()
    return {
        name.lower().removeprefix(prefix).replace("-", "_"): value
        for name, value in headers.items()
        if name.lower().startswith(prefix)
    }
