"""Check that a dataset's name means the same data as before: by place and content of its files."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from minivess import names
from minivess.config import DEMO, ExperimentConfig
from minivess.contracts import RunRecord
from minivess.data.versions.versioning import is_place, recorded_places
from minivess.errors import StoreError, UsageError
from minivess.home import Home
from minivess.orchestration.session import Session
from minivess.text import slug

LONGEST_LABEL = 63
"""BentoML cuts names there."""


def require(session: Session, hashes: Mapping[Path, str] | None = None) -> None:
    """Check that the dataset's name means these data and resembles no other dataset's.

    Args:
        hashes: of its files; with them, a folder that was moved is recognised.

    Raises:
        UsageError: the name belongs to other data.
    """
    config = session.config
    if config.data.root is None:
        return
    profiles = session.ask(lambda store: store.search(kind=names.PROFILE, status="FINISHED"))
    if profiles is None:
        require_here(session.home, config)
        return
    mine = [one for one in profiles if one.params.get(names.DATASET_NAME) == config.dataset]
    if any(is_place(one.params.get("data_dataset_path", ""), config.data.root) for one in mine):
        return
    known = {one.params.get(names.DATASET_NAME, "") for one in profiles} | {
        *recorded_places(session.home)
    }
    if not mine:
        _require_new(config, known)
        require_here(session.home, config)
        _print_renamed(session, profiles, hashes or {})
    elif config.data.name is not None:
        session.print(f"  note: {config.dataset} lay at {mine[0].params.get('data_dataset_path')}")
    elif hashes is not None and same_files(session, mine[0], hashes):
        session.print(
            f"  note: {config.dataset} has moved here; its files are those profiled before"
        )
    else:
        raise _taken(config, mine[0].params.get("data_dataset_path", "elsewhere"), known)


def require_here(home: Home, config: ExperimentConfig) -> None:
    """The same check by the curated data of this home alone, without MLflow."""
    known = recorded_places(home)
    place, asked = known.get(config.dataset), config.data
    if asked.root and place and not asked.name and not is_place(place, asked.root):
        raise _taken(config, place, known)


def require_experiment(session: Session) -> None:
    """Check that the experiment is one of this dataset, and that its name resembles no other's.

    Raises:
        UsageError: it is another dataset's, or one of our own.
    """
    config = session.config
    known = session.ask(lambda store: store.experiments()) or {}
    theirs, alike = known.get(config.experiment, ()), _alike(config.experiment, known)
    if config.experiment in names.OWN_EXPERIMENTS or (theirs and config.dataset not in theirs):
        what = f"holds {', '.join(theirs)}" if theirs else "is kept for runs of other kinds"
    elif config.experiment not in known and alike is not None:
        what = f"would share names with the experiment {alike!r}"
    else:
        return
    raise UsageError(
        f"The experiment {config.experiment!r} {what}, so it cannot take {config.dataset!r}.",
        remedy=f"name={_free(config.dataset, known)}",
    )


def same_files(session: Session, profile: RunRecord, hashes: Mapping[Path, str]) -> bool:
    """Whether a profile was made of files with these contents, under any names."""
    try:
        made_of = session.store.read_json(profile.run_id, names.INGREDIENTS_ARTIFACT)
    except StoreError:
        return False
    return Counter(made_of.get("files", {}).values()) == Counter(hashes.values())


def _print_renamed(
    session: Session, profiles: Iterable[RunRecord], hashes: Mapping[Path, str]
) -> None:
    """Print which older dataset has these files: reviews and models stay with its name."""
    newest: dict[str, RunRecord] = {}
    for profile in profiles:
        newest.setdefault(profile.params.get(names.DATASET_NAME, ""), profile)
    for dataset, profile in newest.items():
        if hashes and same_files(session, profile, hashes):
            session.print(
                f"  note: these are the files of {dataset}, which is another dataset here; "
                f"{shlex.quote(f'data.name={dataset}')} goes on with its reviews and models"
            )


def _require_new(config: ExperimentConfig, known: set[str]) -> None:
    alike = _alike(config.dataset, known)
    if config.dataset == DEMO:
        clash = f"{DEMO!r} is the name of the demo data, so {config.data.root} needs another."
    elif alike is not None:
        clash = f"The dataset {config.dataset!r} would share names with the dataset {alike!r}."
    else:
        return
    raise UsageError(clash, remedy=f"data.name={_free(config.dataset, known)}")


def _alike(name: str, known: Mapping[str, object] | set[str]) -> str | None:
    """A known name that makes the same Prefect Variable, service or folder."""
    label = slug(name)[:LONGEST_LABEL]
    return next((o for o in known if o != name and slug(o)[:LONGEST_LABEL] == label), None)


def _free(name: str, known: Mapping[str, object] | set[str]) -> str:
    """The name with the first number that makes it unused."""
    number = 2
    while f"{name}-{number}" in known or _alike(f"{name}-{number}", known):
        number += 1
    return f"{name}-{number}"


def _taken(
    config: ExperimentConfig, place: str, known: Mapping[str, object] | set[str]
) -> UsageError:
    return UsageError(
        f"The dataset {config.dataset!r} lies at {place}; {config.data.root} is another folder of "
        "that name with other files.",
        remedy=f"data.name={_free(config.dataset, known)} if it is another dataset, "
        f"data.name={config.dataset} if it is the same one at a new place",
    )
