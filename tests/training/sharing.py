"""Started by torchrun: the tiny cell, trained by several processes.

The third word: `dying` ends the first early, the name of a volume breaks that volume.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from minivess.training import distributed, trainer
from tests.conftest import write_nifti
from tests.training import scene


class Dying(scene.Heard):
    """Ends the process without a word after the first epoch."""

    def epoch(self, epoch: int, metrics: dict[str, float], left_s: float | None) -> None:
        """Die."""
        if epoch == 1:
            os._exit(9)


if __name__ == "__main__":
    root, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with distributed.joined() as first:
        if first:
            heard = Dying() if sys.argv[3:] == ["dying"] else None
            cases = scene.make_cases(root)
            for name in set(sys.argv[3:]) & set(cases):
                image = scene.tube(scene.SHAPE, seed=0)[0].astype("float32")
                image[4, 4, 4] = float("inf")
                cases[name] = cases[name].replace(image=write_nifti(root / "broken.nii.gz", image))
            scene.train(folder, cases, heard=heard)
        else:
            trainer.assist()
