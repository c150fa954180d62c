"""What flow 4 proves and serves."""

from __future__ import annotations

from minivess.contracts.record import Contract, Versioned


class Parity(Contract):
    """How far the exported network is from the trained one, over whole volumes."""

    volumes: tuple[str, ...]
    max_logit_difference: float
    mask_agreement: float
    passed: bool


class Engine(Contract):
    """One way to run the exported network on this machine."""

    name: str
    size_mb: float
    seconds_per_volume: float


class Smoke(Contract):
    """The answer of the running service to one known volume."""

    case: str
    seconds: float
    mask_agreement: float
    lineage: dict[str, str]


class DeploymentResult(Versioned):
    """What flow 4 hands on."""

    run_id: str | None = None
    analysis_run_id: str
    model_name: str
    model_version: str
    bento_tag: str
    parity: Parity
    engines: tuple[Engine, ...]
    smoke: Smoke
