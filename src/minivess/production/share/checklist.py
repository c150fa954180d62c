"""Items of reporting standards, answered from the record or named as missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from minivess import files
from minivess.analysis import formatting
from minivess.runtime import templates
from minivess.text import several

FOLDER = Path(__file__).parent
FORMATS = (several, formatting.number, formatting.bounds, formatting.metric)
MISSING = "for the author to fill in"


class Item(NamedTuple):
    """One item of a standard."""

    standard: str
    number: str
    item: str
    answer: str
    """Empty where the record does not hold it."""


def items(**record: Any) -> list[Item]:
    """Return all items, their answers filled from the record."""
    known = record | {
        "best": record["analysis"].winner,
        "unit": formatting.distance_unit(record["profile"]),
        "diameters": [
            one.truth
            for one in record["analysis"].measured
            if one.measure == "diameter_mean" and one.truth is not None
        ],
        "groups": {one.group for one in record["profile"].volumes} - {None},
        **{of.__name__: of for of in FORMATS},
    }
    standards = yaml.safe_load((FOLDER / "checklist.yaml").read_text(encoding="utf-8"))
    return [
        Item(standard, str(row["number"]), row["item"], _answer(row.get("answer", ""), known))
        for standard, rows in standards.items()
        for row in rows
    ]


def _answer(template: str, known: dict[str, Any]) -> str:
    return " ".join(templates.fill(template, **known).split())


def write(folder: Path, **record: Any) -> list[Item]:
    """Write the page, and a table that a spreadsheet opens; return the items."""
    found = items(**record)
    page = templates.render(FOLDER / "checklist.html.j2", items=found, missing=MISSING, **record)
    files.write_text(folder / "checklist.html", page)
    rows = [{**one._asdict(), "answer": one.answer or MISSING} for one in found]
    files.write_csv(folder / "tables" / "checklist.csv", rows)
    return found
