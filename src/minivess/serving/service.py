"""The BentoML service: POST a NIfTI volume to /predict, get its mask or a JSON description.

BentoML starts it in the folder of the bento, where model.onnx and model_config.json lie.
Network, sliding window and metrics are loaded in the worker only: the supervising process
imports this module too, and should not wait for torch.
"""

from __future__ import annotations

import base64
import logging
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import bentoml
import nibabel as nib
import numpy as np
from _bentoml_impl.serde import MultipartSerde  # type: ignore[import-untyped]
from bentoml.exceptions import InvalidArgument
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, JSONResponse

from minivess.contracts import Shape
from minivess.data.formats import volume
from minivess.errors import DataError
from minivess.inference import Predictor
from minivess.serving import model_record
from minivess.serving.middleware import ServiceMiddleware

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

MASK = "mask.nii.gz"
WARNINGS = "Minivess-Warnings"
MAGIC = {
    b"\x1f\x8b": ".nii.gz", b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif",
    b"NRRD": ".nrrd", b"ObjectType": ".mha", b"NDims": ".mha",
}  # fmt: skip


@bentoml.service(name="minivess", workers=1, traffic={"timeout": 3600})
class Segmentation:
    """Segments 3-D volumes with the champion of an experiment."""

    def __init__(self) -> None:
        from minivess.serving import export, metrics

        # MONAI imports mlflow where it finds it; a service has no use for it.
        sys.modules.setdefault("mlflow", None)  # type: ignore[arg-type]
        MultipartSerde.ensure_file = staticmethod(uploaded)
        self.model = model_record.read(Path.cwd())
        self.predictor = Predictor.of(
            self.model.network, self.model.window, export.forward(Path.cwd() / model_record.ONNX),
            classes=self.model.classes,
        )  # fmt: skip
        self.seconds = metrics.SECONDS.labels(self.model.label)
        self._warm_up()

    # The annotation names what BentoML documents; a Response carries headers and status as well.
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, image: Path, answer: Literal["nifti", "json"] = "nifti") -> Path:
        """Segment the uploaded NIfTI volume `image`.

        `answer=nifti` returns the mask on the same grid, `answer=json` its description with the
        mask inside, base64 encoded.
        """
        try:
            return self._answer(image, answer)  # type: ignore[return-value]
        except DataError as error:
            problem = error.problem.replace(str(image.parent), "").replace("/upload", "upload")
            return rejection(422, problem, error.remedy, code=error.code)  # type: ignore[return-value]

    def _answer(self, upload: Path, answer: str) -> FileResponse | JSONResponse:
        from minivess.serving import predict

        image = self._read(upload)
        odd = predict.admit(image, self.model.divisor)
        started = time.perf_counter()
        mask = self._segment(image)
        seconds = time.perf_counter() - started
        self.seconds.observe(seconds)
        path = volume.write_mask(upload.with_name(MASK), mask, image)
        if answer == "nifti":
            codes = {WARNINGS: ", ".join(found.code for found in odd)} if odd else None
            return FileResponse(path, media_type="application/gzip", filename=MASK, headers=codes)
        warnings = {"warnings": [found.model_dump() for found in odd]}
        return JSONResponse(self._describe(image, mask, path, seconds) | warnings)

    def _read(self, upload: Path) -> volume.Volume:
        path = upload.with_name(f"upload{ending(upload)}")
        upload.rename(path)
        self._check_size(header_shape(path))
        image = volume.read_volume(path)
        self._check_size(image.shape)
        return image

    def _check_size(self, shape: tuple[int, ...]) -> None:
        voxels = int(np.prod(shape, dtype=np.int64))
        if voxels > self.model.max_voxels:
            raise DataError(
                f"The volume has {voxels} voxels; this service takes {self.model.max_voxels}.",
                remedy="cut the volume into blocks, or build the service with a larger max_voxels",
            )

    def _segment(self, image: volume.Volume) -> npt.NDArray[np.uint8]:
        from minivess.serving import predict

        return predict.segment(image, self.predictor)

    def _describe(
        self, image: volume.Volume, mask: npt.NDArray[np.uint8], path: Path, seconds: float
    ) -> dict[str, Any]:
        voxel = float(np.prod(image.spacing))
        counts = {value: int(np.count_nonzero(mask == value)) for value in self.model.classes}
        return {
            "model": self.model.label,
            "lineage": self.model.lineage,
            "shape": image.shape,
            "spacing": image.spacing,
            "unit": image.unit,
            "seconds": round(seconds, 4),
            "voxels": {str(value): count for value, count in counts.items()},
            "volume": {str(value): count * voxel for value, count in counts.items()},
            "mask_nii_gz": base64.b64encode(path.read_bytes()).decode(),
        }

    def _warm_up(self) -> None:
        """Run a small volume once: a model that cannot run keeps the service from starting."""
        shape: Shape = tuple(max(16, 2 * step) for step in self.model.divisor)  # type: ignore[assignment]
        blank = volume.Volume(np.zeros(shape, np.float32), (1.0, 1.0, 1.0), "unknown", np.eye(4))
        self._segment(blank)
        logger.info("serving %s", self.model.label)


Segmentation.add_asgi_middleware(ServiceMiddleware)  # type: ignore[attr-defined]


async def uploaded(part: str | UploadFile) -> UploadFile:
    """Refuse text in place of a file: BentoML would take it for an address and download it."""
    if isinstance(part, UploadFile):
        return part
    message = "image: text came where a file belongs"
    raise InvalidArgument(message)


def rejection(status: int, problem: str, remedy: str, *, code: str) -> JSONResponse:
    """Return a 4xx response with its remedy; docs/checks.md lists the codes."""
    return JSONResponse({"error": problem, "code": code, "remedy": remedy}, status_code=status)


def ending(path: Path) -> str:
    """Return the suffix of the format in the first bytes, whatever the file is called."""
    with path.open("rb") as stream:
        start = stream.read(10)
    return next((suffix for magic, suffix in MAGIC.items() if start.startswith(magic)), ".nii")


def header_shape(path: Path) -> tuple[int, ...]:
    """Shape from the header; empty if unreadable, because `read_volume` names the damage."""
    try:
        shape: tuple[int, ...] = nib.load(path).shape  # type: ignore[attr-defined]
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError):
        return ()
    except (OSError, EOFError, ValueError, KeyError, zlib.error):
        return ()
    return shape
