"""Scan a dataset folder: its pairs after review, and the content key of their profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minivess import keys
from minivess.contracts import Pairing
from minivess.data.pairing import cases
from minivess.data.versions.file_hashes import FileHashes
from minivess.data.versions.remote import Mirror
from minivess.demo import phantom
from minivess.formats.filenames import volume_files
from minivess.orchestration.session import Session
from minivess.review.apply import Reviewed, after_review
from minivess.stages import dataset_identity
from minivess.text import several


@dataclass(frozen=True)
class DatasetScan:
    """What is known of a dataset before any volume is opened."""

    root: Path
    place: str
    """`data.root` as the user wrote it: a folder or a remote address."""
    originals: Pairing
    reviewed: Reviewed
    inputs: keys.Ingredients
    key: str

    @property
    def pairing(self) -> Pairing:
        """The volumes to profile, after review."""
        return self.reviewed.pairing

    @property
    def hashes(self) -> dict[Path, str]:
        """MD5 of every file, those that review added included."""
        return self.reviewed.hashes


def scan_dataset(session: Session) -> DatasetScan:
    """Find the pairs and the key of their profile; fetches remote files and opens no volume."""
    dataset, data = session.config.dataset, session.config.data
    root, fetch = data_folder(session)
    pairing = cases.pair_files(root, image=data.image, label=data.label, group=data.group)
    fetch(_files(pairing))
    hashes = _hashes(FileHashes(session.home.profile_cache / "index.json"), pairing)
    dataset_identity.require(session, hashes)
    reviewed = after_review(session.home, dataset, pairing, hashes)
    inputs: keys.Ingredients = {
        "dataset": dataset,
        "files": {file.relative_to(root).as_posix(): value for file, value in hashes.items()},
        "pairs": [[case.case, case.group] for case in pairing.cases],
        "ignored": pairing.ignored,
        "review": reviewed.in_force,
        "settings": data.key_fields(),
        "remote": data.remote,
        "code": keys.code(keys.DATA_CODE),
    }
    return DatasetScan(root, str(data.root or root), pairing, reviewed, inputs, keys.digest(inputs))


def data_folder(session: Session) -> tuple[Path, Callable[[Iterable[Path]], object]]:
    """The folder of the data (the demo volumes by default), and a function that fetches files."""
    data = session.config.data
    if data.root is None:
        demo = phantom.make_phantoms(session.home.demo, n=data.demo_volumes, seed=data.demo_seed)
        return demo, lambda paths: None
    if isinstance(data.root, Path):
        return data.root, lambda paths: None
    mirror = Mirror(data.root, session.home.sources)

    def fetch(paths: Iterable[Path]) -> None:
        with session.progress("files fetched") as progress:
            number = mirror.fetch(paths, progress)
        if number:
            session.print(f"  fetched  {several(number, 'file')} of {data.root}")

    return mirror.listed(), fetch


def _hashes(index: FileHashes, pairing: Pairing) -> dict[Path, str]:
    """A hash of each volume: of its file, or of all the files that make it."""
    found = index.hashes(list(_files(pairing)))
    volumes = (path for case in pairing.cases for path in case.files)
    return {
        path: keys.digest([found[part] for part in beside]) if len(beside) > 1 else found[path]
        for path in volumes
        for beside in [volume_files(path)]
    }


def _files(pairing: Pairing) -> Iterator[Path]:
    return (part for case in pairing.cases for path in case.files for part in volume_files(path))
