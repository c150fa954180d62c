"""Build the images of flows and service and run both: sizes and seconds. Needs buildah and podman.

    just bench images FOLDER

FOLDER keeps the layers, so that a second call builds what changed. Where no registry answers, the
base is made of Debian's packages (mmdebstrap). Ends with an error where an image does not work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import torch

from minivess import networks
from minivess.config import ModelConfig
from minivess.contracts import Composition, Part, Window
from minivess.demo import phantom
from minivess.runtime.servers import free_port
from minivess.serving import export, package

CLONE = Path(__file__).resolve().parents[1]
BASE = "docker.io/library/debian:bookworm-slim"
PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
RUN = (
    *PODMAN, "run", "--rm", "--network", "host", "--read-only", "--tmpfs", "/tmp",
    "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
)  # fmt: skip
READY_S = 300
TOKEN = "a-token-of-the-bench-only"


def main(words: Sequence[str] | None = None) -> int:
    """Build, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="keeps layers and results; 12 GB")
    folder = parser.parse_args(words).folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(folder)
    print("\n| what | figure |\n|---|---|")
    print("\n".join(f"| {what} | {figure} |" for what, figure in rows.items()))
    return 0


def measure(folder: Path) -> dict[str, str]:
    """Build both images below `folder` and run them; figures by what they are of."""
    storage = folder / "storage.conf"
    places = f'graphroot = "{folder}/layers"\nrunroot = "{folder}/run"\n'
    storage.write_text(f'[storage]\ndriver = "overlay"\n{places}')
    os.environ |= {
        "CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot",
        "BUILDAH_LAYERS": "true", "BUILDER": "buildah", "TMPDIR": str(folder),
    }  # fmt: skip
    rows = {"base made": seconds(lambda: make_base(folder))}
    service = build_service(folder)
    options = ("--pull-never", *pip_options())
    for kind, image, place in (
        ("flow", "minivess-flow:latest", ()), ("service", "tubes:1", (str(service),)),
    ):  # fmt: skip
        command = (str(CLONE / "docker" / "build"), kind, *place, *options)
        rows[f"{kind} image built"] = seconds(partial(call, *command))
        size = json.loads(call(*PODMAN, "image", "inspect", image))[0]["Size"]
        rows[f"{kind} image"] = f"{size / 1e9:.2f} GB"
    rows["one flow in the flow image"] = seconds(lambda: run_flow(folder))
    return rows | ask_service(folder)


def seconds(work: Callable[[], object]) -> str:
    """How long a call takes."""
    started = time.monotonic()
    work()
    return f"{time.monotonic() - started:.0f} s"


def call(*command: str) -> str:
    """Run a program; what it prints, or its last lines as the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def make_base(folder: Path) -> None:
    """Fetch the base that both images stand on, or make it of Debian's packages."""
    known = subprocess.run([*PODMAN, "image", "exists", BASE], check=False)
    if known.returncode == 0:
        return
    if subprocess.run([*PODMAN, "pull", "-q", BASE], check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        call("mmdebstrap", "--variant=minbase", "--mode=root", "bookworm", f"{place}/base.tar")
        (Path(place) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\nCMD bash\n")
        call("buildah", "build", "--format", "docker", "-t", BASE, place)


def pip_options() -> Iterator[str]:
    """Tell pip in the build what it knows here: addresses, and folders that are mounted."""
    mounts: dict[str, str] = {}
    arguments: dict[str, str] = {}
    listed = call(sys.executable, "-m", "pip", "config", "list")
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name, text = key.rpartition(".")[2].replace("-", "_").upper(), value.strip("'\"")
        if name == "CERT":
            # Where Debian keeps its own list, the build installs another one.
            mounts[text], arguments[name] = "/run/ca.crt", "/run/ca.crt"
        elif name in {"INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"}:
            places = [place for place in text.split("\\n") if place.strip()]
            local = [place.removeprefix("file://") for place in places]
            mounts |= {place: place for place in local if Path(place).is_dir()}
            arguments[name] = " ".join(places)
    for here, there in mounts.items():
        yield from ("--volume", f"{here}:{there}:ro")
    for name, text in arguments.items():
        yield from ("--build-arg", f"PIP_{name}={text}")


def build_service(folder: Path) -> Path:
    """Build the service of a small network; the folder of its image."""
    model = ModelConfig(
        name="dynunet", family="dynunet", builder="minivess.networks:dynunet", filters=(4, 8, 8)
    )
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(24, 24, 5))
    weights = folder / "weights.pth"
    torch.save({"weights": networks.initial(network, seed=3).state_dict()}, weights)
    window = Window(patch_size=(16, 16, 4), overlap=0.25, normalisation="zscore")
    tag = package.build(
        folder, onnx=[export.to_onnx(network, weights, folder / "model.onnx")],
        composition=Composition(parts=(Part(network=network, window=window),)),
        lineage={"training_run_id": "bench"}, name="tubes", version="1",
    )  # fmt: skip
    return package.bento_home(folder) / "bentos" / tag.replace(":", "/") / "src"


def run_flow(folder: Path) -> None:
    """Profile the demo volumes in the flow image, as its user."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    os.chown(output, 1000, 1000)
    words = ("-v", f"{output}:/output", "-e", "PREFECT_DISABLED=1", "minivess-flow:latest")
    said = json.loads(call(*RUN, *words, "minivess", "profile", "--json").splitlines()[-1])
    assert said["data_profile_run_id"], said


def ask_service(folder: Path) -> dict[str, str]:
    """Start the service image, ask it from outside, end it; the figures."""
    port = free_port()
    command = ["bentoml", "serve", package.SERVICE, "--host", "127.0.0.1", "--port", str(port)]
    image = next(
        iter(phantom.make_phantoms(folder / "volumes", n=1, seed=0).rglob("images/*.nii.gz"))
    )
    with container("tubes:1", *command):
        url, started = f"http://127.0.0.1:{port}", time.monotonic()
        wait(f"{url}/readyz")
        ready, headers = time.monotonic() - started, {"Authorization": f"Bearer {TOKEN}"}
        refused = httpx.post(f"{url}/predict", files={"image": image.read_bytes()})
        answer = httpx.post(
            f"{url}/predict", files={"image": image.read_bytes()}, headers=headers, timeout=120
        )
        assert (refused.status_code, answer.status_code) == (401, 200), answer.text[:500]
        assert answer.headers["X-Minivess-Training-Run-Id"] == "bench"
    return {"service image ready": f"{ready:.0f} s"}


@contextmanager
def container(image: str, *command: str) -> Iterator[None]:
    """Run an image for the length of a `with` block."""
    name = f"minivess-bench-{os.getpid()}"
    words = [*RUN, "--name", name, "-e", f"MINIVESS_TOKEN={TOKEN}", image]
    with subprocess.Popen([*words, *command], stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            call(*PODMAN, "stop", "-t", "30", name)
            process.wait()


def wait(url: str) -> None:
    """Wait until an address answers."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    sys.exit(f"{url} did not answer in {READY_S} s")


if __name__ == "__main__":
    sys.exit(main())
