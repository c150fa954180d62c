"""`deployments/to`: what brings a service to where it runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
REGISTRY = "registry.lab.org/group"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `deploy` builds, as far as it is looked at."""
    lineage = {"model_name": "Tubes", "model_version": "7"}
    model = {"name": "tubes", "version": "7", "lineage": lineage}
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model_config.json").write_text(json.dumps(model))
    return tmp_path / "src"


def to(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call deployments/to."""
    kept = {"PATH": os.environ["PATH"], "BUILDER": "docker", **variables}
    return subprocess.run(
        [DEPLOYMENTS / "to", *words], env=kept, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("local", ["minivess serve Tubes/7 --detach"]),
        ("container", ["docker/build service", "docker run --detach .* tubes:7"]),
        ("compose", ["docker/build service", "env SERVICE_IMAGE=tubes:7 docker compose"]),
        (
            "kubernetes",
            ["docker/build", "docker tag tubes:7", f"docker push {REGISTRY}/tubes:7",
             "kubectl apply", f"kubectl set image .*={REGISTRY}/tubes:7", "kubectl rollout"],
        ),
        ("nomad", ["docker/build", "docker tag", "docker push", "nomad job run -var image="]),
        ("sky", ["docker/build", "docker tag", "docker push", "sky launch .*IMAGE="]),
    ],
)  # fmt: skip
def test_a_target_prints_the_commands_that_it_takes_and_the_question_at_the_end(
    target: str, expected: list[str], folder: Path
) -> None:
    done = to(target, folder, REGISTRY=REGISTRY)
    assert done.returncode == 0, done.stderr
    said = [" ".join(shlex.split(line)) for line in done.stdout.splitlines()]
    for line, pattern in zip(said, [*expected, "curl .*/readyz"], strict=True):
        assert re.match(pattern, line), line
    for word in re.findall(r"deployments/\S+", done.stdout.replace("'", " ")):
        assert (DEPLOYMENTS.parent / word).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["moon", "FOLDER"], "There is no target 'moon'"),
        (["local", "/nowhere"], "'/nowhere' holds no service"),
        (["local", "FOLDER", "--rum"], "'--rum' is no option"),
        (["nomad", "FOLDER"], "REGISTRY: is not set: name the registry that nomad"),
    ],
)
def test_what_cannot_be_brought_anywhere_is_refused(
    words: list[str], said: str, folder: Path
) -> None:
    done = to(*(str(folder) if word == "FOLDER" else word for word in words))
    assert done.returncode != 0
    assert said in done.stderr


def test_nomad_and_sky_are_given_the_values_that_their_files_take() -> None:
    job = (DEPLOYMENTS / "nomad" / "service.nomad.hcl").read_text()
    assert 'variable "image"' in job
    assert job.count("{") == job.count("}")
    task = yaml.safe_load((DEPLOYMENTS / "sky" / "service.yaml").read_text())
    assert set(task["envs"]) == {"IMAGE", "MINIVESS_TOKEN"}
    assert '"$IMAGE"' in task["run"]
