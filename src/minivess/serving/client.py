"""Ask a running service: which model it serves, and for the mask of a volume."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from minivess.contracts import Finding
from minivess.data.checks import CHECKS, finding
from minivess.errors import DataError, ServingError
from minivess.formats import volume
from minivess.serving import access, model_record
from minivess.serving.predict import Segmented, Segmenter

ASK_TIMEOUT_S = 1800
PATIENCE_S = 3600.0
"""How long a busy service is asked again."""
BUSY = (429, 503)


def model_at(url: str) -> dict[str, Any]:
    """Return model and lineage ids of the service at an address.

    Raises:
        ServingError: nothing answers there, or no service of this product.
    """
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=10, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServingError(
            f"Nothing answers at {url} ({error or type(error).__name__}).",
            remedy="minivess serve, or another --url",
        ) from error
    found = model_record.lineage_of(dict(answer.headers))
    if "model" not in found:
        raise ServingError(
            f"What answers at {url} is no service of a model ({answer.status_code}).",
            remedy="give the address that `minivess serve` prints",
        )
    return found


def post(url: str, image: Path, answer: str = "nifti") -> httpx.Response:
    """Upload a volume to a service and return the response; a busy service is asked again.

    Raises:
        DataError: it rejected the volume; the code is that of the check.
        ServingError: no answer, or another error.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        response = _posted(url, image, answer)
        wait_s = float(response.headers.get("Retry-After", 1))
        if response.status_code not in BUSY or time.monotonic() + wait_s > deadline:
            break
        time.sleep(wait_s)
    if not response.is_error:
        return response
    body = response.json()
    problem = (
        f"The service at {url} rejected {image.name} ({response.status_code}): {body['error']}"
    )
    if "code" in body:
        raise DataError(problem, remedy=body["remedy"], code=body["code"])
    raise ServingError(problem, remedy=body["remedy"])


def _posted(url: str, image: Path, answer: str) -> httpx.Response:
    try:
        with image.open("rb") as stream:
            return httpx.post(
                f"{url.rstrip('/')}/predict",
                files={"image": (image.name, stream)},
                data={"answer": answer},
                headers=access.headers(),
                timeout=ASK_TIMEOUT_S,
                trust_env=False,
            )
    except httpx.HTTPError as error:
        raise ServingError(
            f"The service at {url} gave no answer ({error!r}).",
            remedy="start it again, its log lies in logs/serve of the output folder",
        ) from error


def mask_of(answer: httpx.Response) -> volume.Volume:
    """Return the mask in an answer, with its geometry."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.nii.gz"
        path.write_bytes(answer.content)
        return volume.read_volume(path)


def asking(url: str) -> Segmenter:
    """Return what has files segmented by the service at an address."""

    def segmented(source: Path) -> Segmented:
        answer = post(url, source)
        mask = mask_of(answer)
        image = replace(mask, array=volume.read_volume(source).array)
        return Segmented(image, mask.array.astype(np.uint8), _warnings(answer))

    return segmented


def _warnings(answer: httpx.Response) -> list[Finding]:
    """Return the warnings in the header of an answer; it carries codes, the JSON carries texts."""
    codes = answer.headers.get(model_record.WARNINGS, "").split(", ")
    return [finding(code, CHECKS[code].meaning) for code in codes if code]
