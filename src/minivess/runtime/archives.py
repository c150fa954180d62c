"""Archives from elsewhere: unpacked only inside their folder, and compared with their manifest."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import BaseModel

from minivess import files
from minivess.errors import MinivessError

MANIFEST = "manifest.json"


class Hashes(BaseModel):
    """What every manifest holds."""

    sha256: dict[str, str]


class Archive(NamedTuple):
    """An archive that somebody sent, and how it is refused.

    Attributes:
        source: a zip or tar file, or a folder.
        error: class of the error.
        remedy: how to get one that is right.
    """

    source: Path
    error: type[MinivessError]
    remedy: str

    def extract(self, folder: Path) -> None:
        """Unpack into a folder.

        Raises:
            MinivessError: of the stated class: it is damaged, larger than the disk, or has a member
                that leads out of the folder.
        """
        try:
            if zipfile.is_zipfile(self.source):
                with zipfile.ZipFile(self.source) as archive:
                    self._extract_zip(archive, folder)
            elif hasattr(tarfile, "data_filter"):
                with tarfile.open(self.source) as archive_of_tar:
                    archive_of_tar.extractall(folder, filter="data")
            else:  # Python 3.11.0 to 3.11.3
                raise self.refused("this Python does not unpack tar files safely; make it a zip")
        except tarfile.FilterError as error:
            raise self.outside(error.tarinfo.name) from error
        except MinivessError:
            raise
        except Exception as error:  # of a damaged archive the libraries say so by any error
            none = isinstance(error, tarfile.ReadError)
            why = "it is no archive, or a part of one" if none else f"it is damaged ({error})"
            raise self.refused(why) from error

    def _extract_zip(self, archive: zipfile.ZipFile, folder: Path) -> None:
        for name in archive.namelist():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise self.outside(name)
        size, free = sum(one.file_size for one in archive.infolist()), shutil.disk_usage(folder)
        if size > free.free:
            raise self.refused(f"it holds {size} bytes, and the disk has room for {free.free}")
        archive.extractall(folder)

    def check(self, folder: Path) -> None:
        """Compare the unpacked files with the SHA-256 in their manifest.

        Raises:
            MinivessError: of the stated class: a file is missing, is one too many, or differs.
        """
        try:
            known = Hashes.model_validate_json((folder / MANIFEST).read_bytes()).sha256
        except (OSError, ValueError) as error:
            raise self.refused(f"it holds no {MANIFEST} with hashes") from error
        found = hashes(folder)
        differs = sorted(name for name in {*found, *known} if found.get(name) != known.get(name))
        if differs:
            raise self.refused(f"{', '.join(differs)} differs from its manifest")

    def outside(self, name: str) -> MinivessError:
        """Build the error for a member that leads out of the folder."""
        return self.refused(f"{name} leads out of its own folder")

    def refused(self, why: str) -> MinivessError:
        """Build the error for an archive that is not used."""
        return self.error(f"{self.source} is refused: {why}.", remedy=self.remedy)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder but its manifest, by path."""
    held = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in held}
    return {name: files.sha256(path) for name, path in names.items() if name != MANIFEST}
