"""Shortened run ids, as people copy them: given in full once, where their words are read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from minivess.errors import UsageError
from minivess.text import some
from minivess.tracking.store import sql_reader
from minivess.tracking.store.store import Store
from minivess.upkeep import purge

SHORT = re.compile(r"(?:runs:/)?([0-9a-f]{8,31})")


def expand(store: Store, words: Iterable[str]) -> list[str]:
    """Return the words, shortened run ids in full; what is no such id, or a file, stays.

    Raises:
        UsageError: several runs begin so.
    """
    given = list(words)
    short = {word: found[1] for word in given if (found := SHORT.fullmatch(word))}
    known = {record.run_id: record.name for record in sql_reader.records(store)}
    known |= {run.info.run_id: f"{run.info.run_name}, deleted" for run in purge.deleted(store)}
    return [_full(known, word, short[word]) if word in short else word for word in given]


def _full(known: dict[str, str], word: str, start: str) -> str:
    found = [run_id for run_id in known if run_id.startswith(start)]
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} runs begin with {start}: "
            f"{some([f'{run_id} ({known[run_id]})' for run_id in found], 5)}.",
            remedy="give as many digits as tell it from the others",
        )
    return found[0] if found and not Path(word).exists() else word
