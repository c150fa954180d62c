"""A look at a dataset: its pairs, what review makes of them, and the key of their profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minivess import keys
from minivess.contracts import Pairing
from minivess.data.formats.filenames import parts
from minivess.orchestration.session import Session
from minivess.stages import dataset_identity

if TYPE_CHECKING:
    from minivess.data.review.apply import Reviewed
    from minivess.data.versions.file_hashes import Index


@dataclass(frozen=True)
class Survey:
    """What can be known about a dataset without opening a volume."""

    root: Path
    place: str
    originals: Pairing
    reviewed: Reviewed
    ingredients: keys.Ingredients
    key: str

    @property
    def pairing(self) -> Pairing:
        """The volumes to profile, after review."""
        return self.reviewed.pairing

    @property
    def hashes(self) -> dict[Path, str]:
        """MD5 of every file, those that review brought included."""
        return self.reviewed.hashes


def look(session: Session) -> Survey:
    """Find the pairs and the key of the profile that they make; opens no volume."""
    from minivess.data.pairing import cases
    from minivess.data.review.apply import after_review
    from minivess.data.versions.file_hashes import Index

    config = session.config
    root, fetch = found(session)
    pairing = cases.pair(
        root, image=config.data.image, label=config.data.label, group=config.data.group
    )
    fetch(_files(pairing))
    hashes = _hashes(Index(session.home.profile_cache / "index.json"), pairing)
    dataset_identity.require(session, hashes)
    reviewed = after_review(session.home, config.dataset, pairing, hashes)
    ingredients: keys.Ingredients = {
        "dataset": config.dataset,
        "files": {file.relative_to(root).as_posix(): value for file, value in hashes.items()},
        "pairs": [[case.case, case.group] for case in pairing.cases],
        "ignored": pairing.ignored,
        "review": reviewed.in_force,
        "settings": config.data.counted(),
        "remote": config.data.remote,
        "code": keys.code(keys.DATA_CODE),
    }
    place = str(config.data.root or root)
    return Survey(root, place, pairing, reviewed, ingredients, keys.digest(ingredients))


def found(session: Session) -> tuple[Path, Callable[[Iterable[Path]], object]]:
    """The folder of the data, and what makes some of its files readable."""
    root = session.config.data.root
    if not isinstance(root, str):
        return root or demo(session), lambda paths: None
    from minivess.data.versions.remote import Mirror

    mirror = Mirror(root, session.home.sources)

    def fetch(paths: Iterable[Path]) -> None:
        with session.progress("files fetched") as progress:
            number = mirror.fetch(paths, progress)
        if number:
            session.say(f"  fetched  {number} files of {root}")

    return mirror.listed(), fetch


def demo(session: Session) -> Path:
    """The demo volumes of this home, made on first use."""
    from minivess.data.demo import phantom

    data = session.config.data
    return phantom.generate(session.home.demo, n=data.demo_volumes, seed=data.demo_seed)


def _hashes(index: Index, pairing: Pairing) -> dict[Path, str]:
    """A hash of each volume: of its file, or of all the files that make it."""
    found = index.hashes(list(_files(pairing)))
    volumes = (path for case in pairing.cases for path in (case.image, case.label) if path)
    return {
        path: keys.digest([found[part] for part in beside]) if len(beside) > 1 else found[path]
        for path in volumes
        for beside in [parts(path)]
    }


def _files(pairing: Pairing) -> Iterator[Path]:
    for case in pairing.cases:
        for path in (case.image, case.label):
            yield from parts(path) if path else ()
