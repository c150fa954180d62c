"""System metrics: MLflow's own monitors, published by explicit run id."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minivess.tracking.run import Run

log = logging.getLogger(__name__)
Publish = Callable[[dict[str, float], int], None]


def monitor(run: Run, interval_s: float) -> Callable[[], None]:
    """Publish `system/*` of this machine until the returned function is called."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        """MLflow's monitors, sampled at once and then on each tick, sent through our door.

        The original asks the store before each sample whether the run goes on, and a run
        shorter than one interval leaves nothing.
        """

        def monitor(self) -> None:
            while True:
                self.collect_metrics()
                self.publish_metrics(self.aggregate_metrics())
                if self._shutdown_event.wait(interval_s):
                    break

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            named = {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}
            _publish(run, named, self._logging_step)
            self._logging_step += 1
            for part in self.monitors:
                part.clear_metrics()

        def finish(self) -> None:
            self._shutdown_event.set()
            if self._process is not None:
                self._process.join(timeout=30)

    # One quiet line per start and stop of a helper thread helps nobody.
    logging.getLogger("mlflow.system_metrics.system_metrics_monitor").setLevel(logging.WARNING)
    built = Monitor(run.run_id, sampling_interval=interval_s, resume_logging=True,
                    tracking_uri=run.store.uri)  # fmt: skip
    built.start()
    return built.finish


def _publish(run: Run, metrics: dict[str, float], step: int) -> None:
    from minivess.errors import StoreError

    try:
        run.metrics(metrics, step)
    except StoreError as error:
        log.warning("System metrics of step %d are lost: %s", step, error.problem)
