"""Prometheus metrics of the service, shown at /metrics.

Import this in workers only: prometheus_client decides at import whether processes share figures,
and BentoML tells its workers to share by a variable in their environment.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = Histogram(
    "minivess_inference_seconds",
    "Seconds from a read volume to its mask.",
    ["model"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
REQUESTS = Counter("minivess_requests_total", "Answers by model and status.", ["model", "status"])
QUEUE = Gauge(
    "minivess_requests_in_queue",
    "Requests that wait or are segmented now.",
    multiprocess_mode="livesum",
)
