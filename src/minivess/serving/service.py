"""The BentoML service: POST a NIfTI volume to /predict, get its mask or a JSON description.

BentoML starts it in the folder of the bento, where model.onnx and model_config.json lie.
Network, sliding window and metrics are loaded in the worker only: the supervising process
imports this module too, and should not wait for torch.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import bentoml
import numpy as np
from _bentoml_impl.serde import MultipartSerde  # type: ignore[import-untyped]
from bentoml.exceptions import InvalidArgument
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse

from minivess.combination import segmenting
from minivess.config import ResamplingConfig, environment
from minivess.contracts import Shape, Spacing
from minivess.errors import DataError
from minivess.formats import nifti, volume
from minivess.formats.decode import check_shape
from minivess.serving import answers, forecast, model_record, request_log
from minivess.serving.middleware import ServiceMiddleware
from minivess.serving.upload import Refusal
from minivess.serving.waiting import AS_JOB, stoppable

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)

FIELD, MASK = "image", "mask.nii.gz"
BENTO_PARSE = MultipartSerde.parse_request
Answers = Literal["nifti", "json", "components", "probabilities", "thresholds", "preview"]
FILES, OF_SHARES = ("nifti", "probabilities"), ("probabilities", "thresholds")
Describe = Callable[[], dict[str, Any]]
Form = TypeVar("Form", bound=BaseModel)
MAGIC = {
    b"\x1f\x8b": ".nii.gz", b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif",
    b"NRRD": ".nrrd", b"ObjectType": ".mha", b"NDims": ".mha",
    **{size.to_bytes(4, order): ".nii" for size in (348, 540) for order in ("little", "big")},
}  # fmt: skip


@bentoml.service(name="minivess", workers=1, traffic={"timeout": 3600})
class Segmentation:
    """Segments 3-D volumes with the champion of an experiment."""

    def __init__(self) -> None:
        from minivess.serving import export, metrics, predict

        # MONAI imports mlflow where it finds it; a service has no use for it.
        sys.modules.setdefault("mlflow", None)  # type: ignore[arg-type]
        MultipartSerde.parse_request = parsed
        self.model = model_record.read(Path.cwd())
        composition = self.model.composition
        files = model_record.network_files(composition, Path.cwd())
        self.predictor = segmenting(
            composition,
            [stoppable(export.forward(file, self.model.engine)) for file in files],
            classes=self.model.classes,
        )
        self.allowed = predict.Allowed(self.model.domain, self.model.out_of_range)
        self.speed = forecast.Speed()
        self.requests = environment().requests
        self.seconds = metrics.SECONDS.labels(self.model.label)
        self._warm_up()

    # The annotation names what BentoML documents; a Response carries headers and status as well.
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, image: Path, answer: Answers = "nifti") -> Path:
        """Segment the uploaded volume `image`.

        `answer=nifti` returns the mask on the same grid; `json` its figures with the mask inside,
        base64 encoded; `components` those with volume and length of each connected component;
        `thresholds` the mask at each threshold with a stated risk;
        `probabilities` NIfTI of 8 bits, 255 for certain; `preview` what the page at / shows.
        """
        try:
            return self._answer(image, answer)  # type: ignore[return-value]
        except DataError as error:
            problem = error.problem.replace(str(image.parent), "").replace("/upload", "upload")
            return rejection(422, problem, error.remedy, code=error.code)  # type: ignore[return-value]

    def _answer(self, upload: Path, answer: Answers) -> FileResponse | JSONResponse:
        from minivess.serving import predict

        if answer == "thresholds" and not self.model.risks:
            problem = "This model has no thresholds: no analysis has chosen any out of fold."
            remedy = "ask for another answer, or serve the champion of an analysis"
            return Refusal(HTTPStatus.NOT_FOUND, problem, remedy).answer
        image = self._read(upload)
        odd = predict.admit(image, self.predictor, self.allowed)
        self._check_time(predict.shape_seen(image, self.predictor))
        codes = {model_record.WARNINGS: ", ".join(found.code for found in odd)} if odd else None
        started, path = time.perf_counter(), upload.with_name(MASK)
        describe = self._segmented if answer not in OF_SHARES else self._shared
        described = describe(image, answer, path)
        seconds = time.perf_counter() - started
        self.seconds.observe(seconds)
        if answer in FILES:
            return FileResponse(path, media_type="application/gzip", filename=MASK, headers=codes)
        return JSONResponse(
            {
                "model": self.model.label,
                "lineage": self.model.lineage,
                "seconds": round(seconds, 4),
                **described(),
                "warnings": [found.model_dump() for found in odd],
                "thresholds": answers.thresholds(self.model.risks, odd),
            }
        )

    def _segmented(self, image: volume.Volume, answer: Answers, path: Path) -> Describe:
        """Write the mask; returns what describes it."""
        mask = self._segment(image)
        volume.write_mask(path, mask, image)
        self._store_features(image, mask)
        more: dict[str, Describe] = {
            "components": lambda: answers.components(mask, image.spacing),
            "preview": lambda: {"image_nii_gz": answers.picture(image, path.parent)},
        }
        return lambda: {
            **answers.figures(mask, image, self.model.classes),
            "mask_nii_gz": answers.packed(path),
            **more.get(answer, dict)(),
        }

    def _shared(self, image: volume.Volume, answer: Answers, path: Path) -> Describe:
        """Write the probabilities, or return what gives the masks of the thresholds."""
        from minivess.serving import predict

        with self.speed.measured(predict.shape_seen(image, self.predictor), self.predictor):
            shares = predict.shares(image, self.predictor)
        if answer == "probabilities":
            nifti.write(path, answers.probabilities(shares), image)
        return lambda: {"sets": answers.sets(shares, image, self.model.risks, path)}

    def _read(self, upload: Path) -> volume.Volume:
        path = upload.with_name(f"upload{ending(upload)}")
        upload.rename(path)
        shape = check_shape(path, volume.header_shape(path))
        self._check_size(shape)
        if self.model.window.resampling is None:  # else the header does not show what is seen
            self._check_time(shape)
        forecast.require_header(path, self.predictor)
        image = volume.read_volume(path)
        self._check_size(image.shape)
        return image

    def _check_size(self, shape: tuple[int, ...]) -> None:
        voxels = int(np.prod(shape, dtype=np.int64))
        if voxels > self.model.max_voxels:
            raise DataError(
                f"The volume has {voxels} voxels; this service takes {self.model.max_voxels}.",
                remedy="cut the volume into blocks, or build the service with a larger max_voxels",
                code=forecast.TOO_LARGE,
            )

    def _check_time(self, shape: Shape) -> None:
        if self.model.request_limit_s is not None and not AS_JOB.get():
            self.speed.require(shape, self.predictor, self.model.request_limit_s)

    def _segment(self, image: volume.Volume) -> npt.NDArray[np.uint8]:
        from minivess.serving import predict

        with self.speed.measured(predict.shape_seen(image, self.predictor), self.predictor):
            return predict.segment(image, self.predictor)

    def _spacing(self) -> Spacing:
        """The voxel size at which the network sees volumes as they are."""
        how = ResamplingConfig.of(self.model.window.resampling)
        return how.target_spacing or (1.0, 1.0, 1.0)

    def _store_features(self, image: volume.Volume, mask: npt.NDArray[np.uint8]) -> None:
        """Store what `minivess drift` compares; a full disk costs no answer."""
        if self.requests is None:
            return
        try:
            features = request_log.features_of(image, mask)
            request_log.add(self.requests, self.model.label, features)
        except (OSError, sqlite3.Error) as error:
            logger.warning("the features of a request were not stored: %s", error)

    def _warm_up(self) -> None:
        """Run a small volume once: a model that cannot run keeps the service from starting."""
        least = tuple(max(16, 2 * step) for step in self.model.divisor)
        for shape in (least, self.predictor.window.patch_size):  # the first call prepares much
            self.speed = forecast.Speed()
            zeros = np.zeros(shape, np.float32)
            self._segment(volume.Volume(zeros, self._spacing(), "unknown", np.eye(4)))
        logger.info("serving %s", self.model.label)


Segmentation.add_asgi_middleware(ServiceMiddleware)  # type: ignore[attr-defined]


async def parsed(self: MultipartSerde, request: Request, cls: type[Form]) -> Form:
    """Check a form before BentoML reads it: it decodes files of other fields as JSON.

    Text in place of a file is refused, because BentoML would take it for an address to download.

    Raises:
        InvalidArgument: it has other fields, none or two files, or no form is in the body.
    """
    try:
        form = await request.form()
    except HTTPException as error:
        raise InvalidArgument(f"the form cannot be read: {error.detail}") from error
    strange = sorted(set(form) - set(cls.model_fields))
    files = form.getlist(FIELD)
    if strange or not files:
        found = ", ".join(map(repr, strange or sorted(form))) or "no field"
        raise InvalidArgument(f"the volume belongs into the field {FIELD!r}; the form has {found}")
    if len(files) > 1:
        raise InvalidArgument(f"{FIELD}: {len(files)} files came, and one volume is segmented")
    if not isinstance(files[0], UploadFile):
        raise InvalidArgument(f"{FIELD}: text came where a file belongs")
    return await BENTO_PARSE(self, request, cls)  # type: ignore[no-any-return]


def rejection(status: int, problem: str, remedy: str, *, code: str) -> JSONResponse:
    """Return a 4xx response with its remedy; docs/checks.md lists the codes."""
    return JSONResponse({"error": problem, "code": code, "remedy": remedy}, status_code=status)


def ending(path: Path) -> str:
    """Return the suffix of the format in the first bytes, whatever the file is called.

    Raises:
        DataError: they are those of no format that is read.
    """
    with path.open("rb") as stream:
        start = stream.read(10)
    for magic, suffix in MAGIC.items():
        if start.startswith(magic):
            return suffix
    raise DataError(
        f"The upload is no volume: it begins with {start!r}." if start else "The upload is empty.",
        remedy="send a NIfTI, TIFF, NRRD or MetaImage file",
    )
