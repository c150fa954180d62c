"""Started by torchrun: the tiny cell, trained by several processes; DYING ends the first early."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from minivess.training import distributed, trainer
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
            scene.train(folder, scene.make_cases(root), heard=heard)
        else:
            trainer.assist()
