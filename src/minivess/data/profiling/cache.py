"""Measurements by content: the same bytes, settings and profiler are not measured again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from minivess import files, keys
from minivess.contracts import Case
from minivess.data.profiling.measurement import Measurement
from minivess.data.versions.curated import curated_case
from minivess.data.versions.file_hashes import FileHashes
from minivess.formats.filenames import curated_names

RECORD = TypeAdapter(Measurement)


@dataclass(frozen=True)
class Cache:
    """The measurements below a folder; `hashes` of files, `rule`: how they are measured."""

    folder: Path
    hashes: Mapping[Path, str]
    rule: Mapping[str, Any]

    def md5s(self, case: Case) -> list[str]:
        """Return the hashes of image and label."""
        return [self.hashes[path] for path in case.files]

    def store(self, case: Case) -> Path:
        """Return the folder of files that are curated in place of a case's own."""
        return self.folder / "converted" / self._key(case)

    def recall(self, cases: Iterable[Case]) -> dict[str, Measurement]:
        """Return what is known of cases, by the names they have now.

        A measurement is known while every file written for it is as it was.
        """
        found = {case.case: known for case in cases if (known := self._known(case))}
        written = (path for known in found.values() for path in known.written if path.is_file())
        md5s = FileHashes(self.folder / "index.json").hashes(written)
        return {
            name: known
            for name, known in found.items()
            if all(md5s.get(path) == md5 for path, md5 in known.written.items())
        }

    def remember(self, case: Case, result: Measurement) -> Measurement:
        """Keep a usable volume; unusable ones are measured again, they fail fast."""
        if result.stats is not None:
            files.write_json(self._record(case), RECORD.dump_python(result, mode="json"))
        return result

    def _known(self, case: Case) -> Measurement | None:
        try:
            known = RECORD.validate_python(files.read_json(self._record(case)))
        except (FileNotFoundError, ValueError):  # lost or damaged: measure again
            return None
        if known.stats is None:
            return None
        kept = curated_case(case, known.stats.converted, self.store(case))
        image, label = curated_names(kept)
        stats = known.stats.replace(
            case=case.case, group=case.group, filename=image, label_filename=label
        )
        about = [finding.replace(case=case.case) for finding in known.findings]
        return known._replace(stats=stats, findings=about, case=kept)

    def _key(self, case: Case) -> str:
        return keys.digest([*self.md5s(case), self.rule])

    def _record(self, case: Case) -> Path:
        return self.folder / "volumes" / f"{self._key(case)}.json"
