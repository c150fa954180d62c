"""Checks of the machine: Python and its packages, GPU, memory, limits, programs."""

from __future__ import annotations

import importlib.metadata
import resource
import shutil
import sys

from packaging.requirements import Requirement

from minivess import config
from minivess.compute import hardware
from minivess.runtime.cgroups import GIB
from minivess.stages.doctor.surroundings import Answer, Surroundings, above
from minivess.text import first_of

PYTHONS = ((3, 11), (3, 15))
"""The first that works, and the first that does not any more."""


def python(_: Surroundings) -> Answer:
    """The version of Python."""
    fits = PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]
    return "ok" if fits else "error", f"Python {'.'.join(map(str, sys.version_info[:3]))}"


def packages(_: Surroundings) -> Answer:
    """Installed packages against the versions that pyproject.toml allows."""
    wanted = [Requirement(line) for line in importlib.metadata.requires("minivess") or ()]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [f"{one.name} {found}" for one in needed if (found := _unfit(one)) is not None]
    if wrong:
        return "error", f"not as required: {first_of(wrong, 5)}"
    return "ok", f"{len(needed)} packages are as required"


def _unfit(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "is missing"
    return None if requirement.specifier.contains(version, prereleases=True) else version


def gpu(around: Surroundings) -> Answer:
    """Torch's build against the GPUs and their driver."""
    driver, every = hardware.gpus(around.readings.nvml)
    if not hardware.visible(every, around.env.cuda_visible_devices):
        hidden = f"; {len(every)} hidden by CUDA_VISIBLE_DEVICES" if every else ""
        return "note", f"no GPU{hidden}"
    import torch

    named = f"{every[0].model}, driver {driver}"
    if torch.version.cuda is None:
        return "error", f"{named}, and torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return "error", f"{named}, and torch for CUDA {torch.version.cuda} cannot use it"
    return "ok", f"{named}, torch for CUDA {torch.version.cuda}"


def memory(around: Surroundings) -> Answer:
    """Free main memory, the limits of a container or a job respected."""
    total, available = hardware.memory(around.readings)
    return above(available, 1, 4), f"{available:.1f} of {total:.1f} GB free"


def swap(around: Surroundings) -> Answer:
    """Swap space."""
    size = around.readings.swap_total / GIB
    return "ok" if size else "note", f"{size:.1f} GB" if size else "none"


def shm(around: Surroundings) -> Answer:
    """Shared memory, through which GPUs exchange gradients."""
    if around.readings.shm is None:
        return "note", "no /dev/shm"
    size = around.readings.shm / GIB
    return above(size, 0, 1), f"{size:.2f} GB"


def threads(around: Surroundings) -> Answer:
    """OMP_NUM_THREADS against the cores that may be used."""
    cores, stated = hardware.cores(around.readings), around.env.omp_num_threads
    found = f"{cores} cores, OMP_NUM_THREADS={stated or 'not set'}"
    return "warning" if stated and stated > cores else "ok", found


def open_files(_: Surroundings) -> Answer:
    """The number of files that a process may open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = limit == resource.RLIM_INFINITY
    return "ok" if unlimited or limit >= 1024 else "warning", str("any" if unlimited else limit)


def git(_: Surroundings) -> Answer:
    """Git, whose commit each run records."""
    found = shutil.which("git")
    return ("ok", found) if found else ("warning", "not on the PATH")


def browser(around: Surroundings) -> Answer:
    """A desktop on which pages can be opened."""
    return ("ok", "a desktop") if around.env.desktop else ("note", "no desktop")


def containers(_: Surroundings) -> Answer:
    """Docker or Podman, which only images of services need."""
    found = [name for name in ("docker", "podman") if shutil.which(name)]
    return ("ok", ", ".join(found)) if found else ("note", "neither docker nor podman")


def telemetry(_: Surroundings) -> Answer:
    """Usage data of the libraries."""
    on = config.talkative()
    return ("warning", f"on by {', '.join(on)}") if on else ("ok", "off in every library")


def variables(_: Surroundings) -> Answer:
    """Variables of Prefect that private servers do not use."""
    found = config.foreign()
    return ("note", first_of(found, 5)) if found else ("ok", "none that is left out")


CHECKS = {
    "python": python, "packages": packages, "gpu": gpu, "memory": memory, "swap": swap, "shm": shm,
    "threads": threads, "open_files": open_files, "git": git, "browser": browser,
    "containers": containers, "telemetry": telemetry, "variables": variables,
}  # fmt: skip
