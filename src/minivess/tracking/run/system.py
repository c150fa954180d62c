"""System metrics: MLflow's monitors, written through the run's journal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run

STOP_S = 30
UNASKED = "http://127.0.0.1:0"
"""Store of a client that MLflow's monitor makes and that is never used. Without an address it would
create a database in the current folder."""
log = logging.getLogger(__name__)


def monitor(run: Run, interval_s: float) -> Callable[[], None]:
    """Publish `system/*` of this machine until the returned function is called."""
    try:
        return _started(run, interval_s)
    except Exception:
        log.warning("System metrics are not logged.", exc_info=True)
        return lambda: None


def _started(run: Run, interval_s: float) -> Callable[[], None]:
    import mlflow.system_metrics.system_metrics_monitor as theirs

    # It logs each start and stop of its thread.
    logging.getLogger(theirs.__name__).setLevel(logging.WARNING)
    base: Any = theirs.SystemMetricsMonitor

    class Monitor(base):  # type: ignore[misc]
        """MLflow's monitors, sampled immediately and then on each tick.

        The original asks the store before each sample whether the run is active, and records
        nothing of a run shorter than one interval.
        """

        def monitor(self) -> None:
            while True:
                try:
                    self.collect_metrics()
                    self.publish_metrics(self.aggregate_metrics())
                except Exception:
                    log.warning("A sample of system metrics failed.", exc_info=True)
                if self._shutdown_event.wait(interval_s):
                    break

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            named = {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}
            run.metrics(named, step=self._logging_step)
            self._logging_step += 1
            for part in self.monitors:
                part.clear_metrics()

        def finish(self) -> None:
            self._shutdown_event.set()
            if self._process is not None:
                self._process.join(timeout=STOP_S)

    started = Monitor(run.run_id, tracking_uri=UNASKED)
    started.start()
    stop: Callable[[], None] = started.finish
    return stop
