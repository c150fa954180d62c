"""Record of a served model: network, window, lineage, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from minivess import files
from minivess.contracts import Domain, EngineName, Network, Shape, Uncertainty, Versioned, Window
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
    classes: tuple[int, ...] = Field(description="label value of each output channel")
    lineage: dict[str, str] = Field(description="run ids and hashes, back to the data")
    max_upload_mb: int = 1024
    max_voxels: int = Field(default=2**27, description="about 4 GiB of memory with two classes")
    max_waiting: int = Field(default=64, description="uploads held at once; one runs at a time")
    max_wait_s: float = Field(default=600, description="seconds that an upload may have to wait")
    engine: EngineName = "onnxruntime"
    domain: Domain | None = Field(default=None, description="what the network was trained on")
    out_of_range: Literal["warn", "refuse"] = "warn"
    uncertainty: Uncertainty | None = Field(
        default=None, description="temperature and thresholds, from predictions out of fold"
    )

    @property
    def label(self) -> str:
        """`name:version`, as in metrics and responses."""
        return f"{self.name}:{self.version}"

    def headers(self) -> dict[str, str]:
        """Return model and lineage ids as HTTP headers, such as X-Minivess-Dataset-Hash."""
        ids = {"model": self.label, **self.lineage}
        return {
            HEADER + name.replace("_", "-").title(): value.encode("ascii", "replace").decode()
            for name, value in ids.items()
        }


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
