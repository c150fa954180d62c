"""Every check: its code, how bad it is, what it means, and what to do. docs/checks.md shows it."""

from __future__ import annotations

from typing import NamedTuple

from minivess.contracts import Finding, Severity


class Check(NamedTuple):
    """What a code stands for; severities beyond the first are for the set as a whole."""

    meaning: str
    remedy: str
    severities: tuple[Severity, ...] = ("warning",)


ERROR: tuple[Severity, ...] = ("error",)
INFO: tuple[Severity, ...] = ("info",)

CHECKS: dict[str, Check] = {
    "unreadable": Check(
        "A file is missing, damaged, truncated, of colour, or may not be read.",
        "replace the file or remove it",
        ERROR,
    ),
    "wrong_dimensions": Check(
        "A file is 2-D, has several channels or time points, or a single slice.",
        "stack slices into 3-D volumes",
        ERROR,
    ),
    "shape_mismatch": Check(
        "Image and label differ in shape.",
        "export the label on the grid of its image",
        ERROR,
    ),
    "non_finite": Check(
        "Voxels of the image are NaN or infinite, or would be as float32.",
        "replace them by numbers in the file",
        ERROR,
    ),
    "constant": Check(
        "Every voxel of the image has one value, or nearly as float32.",
        "export the image again from its source",
        ERROR,
    ),
    "few_values": Check(
        "The image has a handful of values, as label maps have.",
        "name the images, if a label was taken for one: data.image and data.label, or the file",
    ),
    "label_values": Check(
        "A label holds fractions, or nothing but ignored voxels; or (set) values that are no class "
        "numbers: 0 and 255, or numbers of objects.",
        "data.label_map.255=1, data.ignore_label=255 or data.label_map=binary, as is named",
        ERROR,
    ),
    "label_is_image": Check(
        "A label holds the very voxels of its image.",
        "data.label='<pattern of the label files>'; where it is meant, minivess review accept CASE "
        "--why '...'",
        ERROR,
    ),
    "label_rounded": Check(
        "Values of a label are whole numbers only within 0.001; they are rounded.",
        "store whole numbers in label files",
        INFO,
    ),
    "label_meaning": Check(
        "Values of labels may be class numbers, or one class, or numbers of objects.",
        "data.label_map=binary if they number objects",
    ),
    "label_map_unused": Check(
        "data.label_map or data.ignore_label names a value that no label holds.",
        "correct the value, or leave it out",
    ),
    "rare_class": Check(
        "A class occurs in one volume only, so no network can both learn it and be judged on it.",
        "annotate it in more volumes, or give it to another class with data.label_map",
    ),
    "much_foreground": Check(
        "More than half of a label is foreground, as where it is swapped with background.",
        "data.label_map.0=1 data.label_map.1=0 if it is; data.ignore_label if nobody annotated it",
    ),
    "empty_label": Check(
        "A label holds no foreground; an error where no label of the set does.",
        "check that the label was saved; a volume that truly shows nothing may stay",
        ("warning", "error"),
    ),
    "affine_mismatch": Check(
        "Image and label have one shape, but their headers place them differently, by more than "
        "flipped or exchanged axes; voxels are used as if they corresponded.",
        "look at it in the gallery: where voxels correspond, copy the image's affine into the "
        "label; where not, resample the label onto the image's grid (nearest neighbour)",
    ),
    "reoriented": Check(
        "The label is stored with flipped or exchanged axes in the same world space; the curated "
        "copy lies on the image's grid.",
        "nothing to do; no voxel was interpolated",
        INFO,
    ),
    "read_as": Check(
        "A TIFF holds more than one volume, or marks it in a way that can be read otherwise; the "
        "message says how it was read.",
        "look at it in the gallery; store one stack of slices (x, y, z) in a file if it is wrong",
    ),
    "implausible_spacing": Check(
        "A voxel is below a nanometre or above ten centimetres; an error where its size is no "
        "number above 0.",
        "correct the header, or data.spacing=[0.5,0.5,2] data.unit=micron with the true size",
        ("warning", "error"),
    ),
    "unknown_spacing": Check(
        "The file does not state its voxel size along every axis, in a unit of length.",
        "data.spacing=[0.5,0.5,2] data.unit=micron, with the true size; physical distances rest "
        "on it",
    ),
    "spacing_overridden": Check(
        "data.spacing is used, and the file states another voxel size.",
        "leave out data.spacing and data.unit if the files are right",
    ),
    "mixed_units": Check(
        "Voxel sizes of the set are stated in several units; distances are told in each volume's.",
        "store all in one unit, or data.spacing=[0.5,0.5,2] data.unit=micron if one size is true",
    ),
    "sheared_affine": Check(
        "The axes of the grid are not at right angles to each other.",
        "export the volume on a straight grid; voxels are used as if they lay on one",
    ),
    "forms_disagree": Check(
        "The file states two voxel sizes or places that differ (sform, qform, pixdim; JSON beside "
        "a TIFF); the message says which one is used for everything.",
        "correct the file, or data.spacing=[0.5,0.5,2] data.unit=micron with the true size",
    ),
    "few_slices": Check(
        "An axis has fewer than five slices.",
        "networks cannot pool along this axis; leave the volume out to train on deeper patches",
    ),
    "wide_dtype": Check(
        "The image holds 64-bit numbers; networks see them as float32.",
        "store float32 or 16-bit integers: half or a quarter of the bytes",
        INFO,
    ),
    "duplicate": Check(
        "Two cases hold the same bytes or the same voxels; an information within one group.",
        "remove one of the two, or put both in one group with data.group",
        ("warning", "info"),
    ),
    "near_duplicate": Check(
        "Two cases show one image in other numbers, mirrored, or in part; an information within "
        "one group.",
        "remove one of the two, or put both in one group with data.group",
        ("warning", "info"),
    ),
    "outlier": Check(
        "Spacing, size, intensity or foreground is far from the rest of the set.",
        "look at it in the gallery; remove it from data.root if it is foreign, or raise "
        "data.outlier_z",
    ),
    "analyzer_skipped": Check(
        "MONAI's DataAnalyzer (data.analyzer=monai) left the volume out of its figures.",
        "tools that start from its YAML do not know this volume; ours holds it",
    ),
    "missing_label": Check(
        "An image has no label and is left out.",
        "add a label file of the same name, or give data.image and data.label",
    ),
    "extra_label": Check(
        "A label has no image and is left out.",
        "add its image of the same name, or give data.image and data.label",
    ),
    "rejected": Check(
        "Somebody left the volume out in review; the message says who, when and why.",
        "minivess review reopen CASE --why '...'",
        INFO,
    ),
    "broken_link": Check(
        "A link leads nowhere; it is left out, and so is its partner.",
        "fix the link or remove it",
    ),
    "unread_format": Check(
        "Files of a format that is not read, or without their content, lie among the volumes.",
        "convert or fetch them, as the finding says, or move them out of data.root",
    ),
    "predicted_label": Check(
        "A label is a mask that `minivess predict` wrote, so a model would learn from a model.",
        "name the true labels with data.image and data.label, or move the masks out of data.root",
    ),
    "mixed_names": Check(
        "Some pairs are named in another way than most (v1 + v1_seg, v2_ct + v2_mask).",
        "look at those pairs; data.image and data.label as patterns take one kind alone",
    ),
    "divided": Check(
        "Folders called train, val or test divide the volumes, which are read as one set.",
        "data.root=FOLDER/train for one part alone, or training.splits=FILE to keep the parts",
    ),
    "leftover_file": Check(
        "A lock or an unfinished download lies among the volumes; it is not read.",
        "remove it, or wait until the program that writes there is done",
        INFO,
    ),
}

AT_PREDICTION = {
    "few_slices": "look at the mask: networks see little along this axis",
    "few_values": "name the image, if this is a label",
    "read_as": "look at the mask; store one stack of slices (x, y, z) in a file if it is wrong",
    "unknown_spacing": "state the voxel size in the file, or for `minivess predict` "
    "data.spacing=[0.5,0.5,2] data.unit=micron: the mask carries it",
}
"""Remedies that differ where a volume is segmented only."""


def finding(
    code: str,
    message: str,
    *,
    case: str | None = None,
    severity: Severity | None = None,
    remedy: str | None = None,
) -> Finding:
    """A finding about a volume, or about none yet; its severity and remedy are the check's."""
    check = CHECKS[code]
    return Finding(
        code=code,
        severity=severity or check.severities[0],
        case=case,
        message=message,
        remedy=remedy or check.remedy,
    )


def table() -> str:
    """The checks as the page of the docs."""
    rows = "".join(
        f"| `{code}` | {', '.join(check.severities)} | {check.meaning} | {check.remedy} |\n"
        for code, check in CHECKS.items()
    )
    return f"| code | severity | what | remedy |\n|---|---|---|---|\n{rows}"
