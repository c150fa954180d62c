"""Segment files and folders; used by the command line and the service."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from minivess import files, keys
from minivess.combination import Segmenting
from minivess.config import DataConfig, ResamplingConfig
from minivess.contracts import Domain, Finding, Shape, Window
from minivess.data.checks import finding
from minivess.data.pairing.cases import walk_files
from minivess.data.pairing.layouts import is_label, is_label_folder
from minivess.data.profiling import admission, quality
from minivess.data.profiling.domain import check_domain
from minivess.data.profiling.grids import with_stated_spacing
from minivess.errors import DataError, MinivessError, UsageError
from minivess.formats import volume
from minivess.formats.filenames import NIFTI, SUFFIXES, is_volume, stem, suffix, unread_format
from minivess.formats.resampling import resample, shape_after, to_shape
from minivess.serving import answers, forecast

Pairs = Sequence[tuple[Path, Path]]
ENDING = "_mask.nii.gz"
logger = logging.getLogger(__name__)
FURTHER_CHANNEL = re.compile(r"_(?!0000)\d{4}$")


class Plan(NamedTuple):
    """Files to segment with the paths of their masks, and files left out with the reason."""

    pairs: Pairs
    left: dict[Path, str]


class Allowed(NamedTuple):
    """What the network was trained on, and what becomes of a volume outside of it."""

    domain: Domain | None = None
    out_of_range: Literal["warn", "refuse"] = "warn"


ANYTHING = Allowed()


class Segmented(NamedTuple):
    """A volume with its mask (X, Y, Z) and the warnings about it."""

    image: volume.Volume
    mask: npt.NDArray[np.uint8]
    findings: Sequence[Finding]


Segmenter = Callable[[Path], Segmented]


class Outcome(NamedTuple):
    """Result of one file: its mask with warnings, or the error that rejected it.

    `kept`: the mask was there, made of the same bytes by the same model.
    """

    source: Path
    mask: Path | None
    findings: Sequence[Finding]
    kept: bool = False


# --- one volume ---------------------------------------------------------------------------


def admit(
    image: volume.Volume, predictor: Segmenting, allowed: Allowed = ANYTHING
) -> list[Finding]:
    """Apply the checks of `profile` to an image, and compare it with the training volumes.

    Returns:
        The warnings.

    Raises:
        DataError: it would be quarantined there, lies out of a range that is to be kept, or takes
            more memory than is free; the error carries the code.
    """
    usual = quality.check_image(image)
    shape = shape_seen(image, predictor)
    warnings = admission.admit([*usual, *admission.check_reach(shape, predictor.divisor)])
    forecast.require_memory(shape, predictor)
    foreign = [] if allowed.domain is None else check_domain(image, allowed.domain)
    if allowed.out_of_range == "refuse":
        foreign = [found.replace(severity="error") for found in foreign]
    return [*warnings, *admission.admit(foreign)]


def shape_seen(image: volume.Volume, predictor: Segmenting) -> Shape:
    """Return the shape that the network sees of an image."""
    resampling = ResamplingConfig.of(predictor.window.resampling)
    return shape_after(image.shape, image.spacing, resampling)


def segment(image: volume.Volume, predictor: Segmenting) -> npt.NDArray[np.uint8]:
    """Segment one volume; return label values (X, Y, Z) on its own grid.

    A network that was trained on resampled volumes sees it resampled in the same way.

    Raises:
        ServingError: the network wants several channels, and a volume holds one.
        DataError: the answer is no number somewhere.
    """
    mask = predictor.segment(as_trained(image, predictor.window))
    return mask if mask.shape == image.shape else to_shape(mask, image.shape)


def shares(image: volume.Volume, predictor: Segmenting) -> npt.NDArray[np.float32]:
    """Return the probabilities of the classes (C, X, Y, Z) on the grid of a volume."""
    found = predictor.probabilities(as_trained(image, predictor.window))
    if found.shape[1:] == image.shape:
        return found
    return np.stack([to_shape(one, image.shape, order=1) for one in found])


def as_trained(image: volume.Volume, window: Window) -> npt.NDArray[np.float32]:
    """Return the channel (1, X, Y, Z) of a volume as the network saw volumes in training.

    Types that float32 holds exactly are kept, so that no copy is made.
    """
    resampling = ResamplingConfig.of(window.resampling)
    exact = np.result_type(image.array.dtype, np.float32) == np.float32
    kept = exact and not resampling.enabled
    array: volume.Array = image.array if kept else image.array.astype(np.float32)
    if resampling.enabled:
        array, _ = resample(array, None, image.spacing, resampling)
    return array[np.newaxis]


def own(predictor: Segmenting, data: DataConfig, allowed: Allowed) -> Segmenter:
    """Return what segments files with a network here.

    A voxel size that `data` states is that of the files and of their masks.
    """

    def segmented(source: Path) -> Segmented:
        forecast.require_header(source, predictor)
        image = with_stated_spacing(volume.read_volume(source), data)
        odd = admit(image, predictor, allowed)
        return Segmented(image, segment(image, predictor), odd)

    return segmented


def each(pairs: Pairs, segmenter: Segmenter, recipe: object = None) -> Iterator[Outcome]:
    """Segment file after file; a bad one does not keep others from it.

    Args:
        recipe: what decides a mask beside its file, as JSON; a mask that the same recipe made of
            the same bytes is kept. None: all are made.
    """
    for source, target in pairs:
        yield _outcome(source, target, segmenter, recipe)


def _outcome(source: Path, target: Path, segmenter: Segmenter, recipe: object) -> Outcome:
    try:
        of = _mark(source)
        by = "" if recipe is None else keys.digest([recipe, files.md5(source)])[:16]
        complete = all(path.exists() for path in answers.beside(target))
        if by and complete and volume.is_made(target, of=of, by=by):
            return Outcome(source, target, (), kept=True)
        image, mask, odd = segmenter(source)
        written = volume.write_mask(target, mask, image, of=of, by=by)
        answers.write_beside(target, mask, image)
        return Outcome(source, written, odd)
    except DataError as error:
        refused = finding(error.code, error.problem, severity="error", remedy=error.remedy)
    except (MinivessError, OSError):  # of reading, a DataError is made: this is about the mask
        raise
    except Exception as error:  # whatever a library says of one file
        problem = f"{type(error).__name__}: {error or 'memory is too small for it'}"
        logger.info("%s", source, exc_info=error)  # seen with --debug
        remedy = "look at the file; --debug shows where it failed, please report it if it is right"
        refused = finding("unreadable", problem, remedy=remedy)
    return Outcome(source, None, [refused])


# --- files and folders --------------------------------------------------------------------


def plan(inputs: Path, out: Path) -> Plan:
    """Plan which files are segmented, and where their masks go; sub-folders are mirrored.

    Raises:
        DataError: nothing to segment, or two files whose masks would have the same name.
        UsageError: a mask cannot be written there, or would replace another file.
    """
    if not inputs.is_dir():
        left: dict[Path, str] = {}
        pairs = [(inputs, _file(inputs, out))]
    else:
        sources, left = _volumes(inputs, out)
        pairs = [(path, _folder(out) / _mirrored(path, inputs)) for path in sources]
    _refuse_shared(pairs)
    for source, target in pairs:
        _refuse_occupied(source, target)
    return Plan(pairs, left)


def _file(source: Path, out: Path) -> Path:
    """Path of the mask of one file; `out` is that path, or a folder."""
    if not source.is_file():
        raise DataError(
            f"There is no volume to segment at {source}.",
            remedy="name a volume (.nii.gz, .tif, .nrrd, .mha), or a folder that holds some",
        )
    if not is_volume(source):
        kind, remedy = unread_format(source) or ("no volume", "name a .nii.gz, .tif, .nrrd or .mha")
        raise DataError(f"{source} is {kind}, which is not read.", remedy=remedy)
    return out if out.name.endswith(NIFTI) and not out.is_dir() else _folder(out) / _mask(source)


def _folder(out: Path) -> Path:
    """Require a folder that exists or can be created."""
    lowest = next(path for path in (out, *out.absolute().parents) if path.exists())
    named = not out.exists() and (suffix(out) in SUFFIXES or unread_format(out))
    if named or not lowest.is_dir():
        what = "is named like a file" if named else "lies below a file"
        raise UsageError(
            f"{out} {what if lowest != out else 'is a file'}, and a folder is needed here.",
            remedy="name a folder for the masks; of one volume, a file ending in .nii.gz as well",
        )
    if not os.access(lowest, os.W_OK):
        raise UsageError(
            f"Nothing may be written to {lowest}.", remedy="name another folder for the masks"
        )
    return out


def _volumes(folder: Path, out: Path) -> tuple[list[Path], dict[Path, str]]:
    """Files of a folder to segment, and files left out with the reason."""
    if out.resolve() == folder.resolve():
        raise UsageError(
            f"The masks would land among the volumes in {folder}.",
            remedy=f"minivess predict {_quoted(folder, folder.with_name(folder.name + '_masks'))}",
        )
    everything = sorted(walk_files(folder))
    reasons = {path: _left_out(path, folder, out) for path in everything}
    left = {path: reason for path, reason in reasons.items() if reason}
    sources = [path for path in everything if is_volume(path) and path not in left]
    if not sources:
        shown = "; ".join(f"{path.name}: {why}" for path, why in list(left.items())[:3])
        raise DataError(
            f"There is no volume to segment in {folder}{shown and f' ({shown})'}.",
            remedy="name a folder that holds volumes (.nii.gz, .tif, .nrrd, .mha), or one by its "
            "full name, which is segmented whatever it is called",
        )
    return sources, left


def _left_out(path: Path, folder: Path, out: Path) -> str:
    """Why a file of a folder is not segmented; empty if it is, or if it is no volume."""
    if not is_volume(path) or not path.exists():
        broken = "" if path.exists() else "it is a link that leads nowhere"
        other = None if answers.is_own(path) else unread_format(path)
        return "{}; {}".format(*other) if other else broken
    home, masks = folder.resolve(), out.resolve()
    if masks.is_relative_to(home) and path.parent.resolve().is_relative_to(masks):
        return "it lies in the folder for the masks"
    if any(map(is_label_folder, path.relative_to(folder).parts[:-1])):
        return "it lies in a folder of labels"
    if volume.is_own_mask(path):
        return "predict wrote it"
    if is_label(stem(path)):
        return "it is called like a label"
    first = path.with_name(FURTHER_CHANNEL.sub("_0000", stem(path)) + path.name[len(stem(path)) :])
    return "it is a further channel" if first != path and first.exists() else ""


def _mirrored(source: Path, folder: Path) -> Path:
    return source.relative_to(folder).with_name(_mask(source))


def _mask(source: Path) -> str:
    return stem(source) + ENDING


def _mark(source: Path) -> str:
    """Mark of a file in its mask's header: file names repeat across folders."""
    return keys.digest(str(source.resolve()))[:16]


def _refuse_shared(pairs: Pairs) -> None:
    """Reject files whose masks would have the same path, such as one name in two formats."""
    sources = defaultdict(list)
    for source, target in pairs:
        sources[target].append(source)
    shared = {target: those for target, those in sources.items() if len(those) > 1}
    for target, those in shared.items():
        more = f" ({len(shared) - 1} more like these)" if len(shared) > 1 else ""
        raise DataError(
            f"The masks of {' and '.join(map(str, those))} would both be {target}{more}.",
            remedy="move one of them away, or segment each by itself: minivess predict "
            + _quoted(those[0], target.with_name(those[0].name + ENDING)),
        )


def _quoted(*paths: Path) -> str:
    return shlex.join(map(str, paths))


def _refuse_occupied(source: Path, target: Path) -> None:
    """Reject a target that exists, unless it is an unchanged mask of the same file."""
    others = [one for one in answers.beside(target) if one.exists() and not answers.is_own(one)]
    if not target.exists() and not others:
        return
    if others:
        target, what = others[0], "not written by `predict`"
    elif not volume.is_own_mask(target):
        what = "no mask of ours"
    elif not volume.is_own_mask(target, of=_mark(source)):
        what = "the mask of another file"
    elif volume.is_corrected(target):
        what = "was changed since `predict` wrote it"
    else:
        return
    raise UsageError(
        f"{target} is there already, and {what}; what is made of {source} would replace it.",
        remedy="move that file away, or name another place for the masks",
    )
