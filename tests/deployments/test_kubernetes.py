"""The service on Kubernetes: manifests and overlays, by the strict schema."""

from __future__ import annotations

import json
import shutil
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
KUBERNETES = DEPLOYMENTS / "kubernetes"
SCHEMA = "1.31"
OVERLAYS = ("cpu", "gpu")


def check(manifest: dict[str, Any]) -> None:
    """Validate against the strict schema of Kubernetes."""
    schema = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    schema.validate(manifest, SCHEMA, strict=True)


@cache
def rendered(overlay: str) -> dict[str, dict[str, Any]]:
    """What `kubectl apply -k` would send, by kind."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed (apt install kubernetes-client)")
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


FILES = sorted([*KUBERNETES.glob("base/*.yaml"), *KUBERNETES.glob("worker/*.yaml")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_each_manifest_is_valid(file: Path) -> None:
    for manifest in yaml.safe_load_all(file.read_text()):
        if manifest["kind"] != "Kustomization":
            check(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_sends_is_valid(overlay: str) -> None:
    found = rendered(overlay)
    for manifest in found.values():
        check(manifest)
    assert set(found) == {
        "Deployment", "Service", "HorizontalPodAutoscaler", "NetworkPolicy",
        "PersistentVolumeClaim",
    }  # fmt: skip
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
    on_gpu = overlay == "gpu"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == on_gpu
    assert (pod.get("nodeSelector") == {"gpu": "true"}) == on_gpu


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("deployment", ("spec", "template", "spec")),
        ("deployment", ("spec", "template", "spec", "containers", 0, "livenessProbe")),
        ("autoscaler", ("spec", "behavior")),
        ("network", ("spec",)),
        ("claim", ("spec", "resources")),
        ("service", ("spec", "ports", 0)),
    ],
)
def test_a_misspelt_field_is_refused(file: str, place: tuple[str | int, ...]) -> None:
    manifest = yaml.safe_load((KUBERNETES / "base" / f"{file}.yaml").read_text())
    wrong = deepcopy(manifest)
    part: Any = wrong
    for name in place:
        part = part[name]
    part["misspelt"] = 1
    check(manifest)
    with pytest.raises(Exception, match="misspelt"):
        check(wrong)


def test_parts_that_name_each_other_agree() -> None:
    manifests = {
        file.stem: yaml.safe_load(file.read_text()) for file in (KUBERNETES / "base").glob("*.yaml")
    }
    deployment = manifests["deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        manifests["service"]["spec"]["selector"],
        manifests["network"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = manifests["autoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    pool = json.loads((DEPLOYMENTS / "pools" / "k8s-gpu.json").read_text())
    claim = pool["variables"]["properties"]["claim"]["default"]
    assert claim == manifests["claim"]["metadata"]["name"]


def test_the_worker_may_start_and_end_jobs_and_reads_pods() -> None:
    parts = yaml.safe_load_all((KUBERNETES / "worker" / "rights.yaml").read_text())
    rights = {
        (resource, verb)
        for part in parts for rule in part.get("rules", ())
        for resource in rule["resources"] for verb in rule["verbs"]
    }  # fmt: skip
    assert {("jobs", "create"), ("jobs", "delete"), ("pods", "watch"), ("pods/log", "get")} < rights
    assert not any(
        resource in {"secrets", "nodes", "*"} or verb == "*" for resource, verb in rights
    )
    pool = json.loads((DEPLOYMENTS / "pools" / "k8s-gpu.json").read_text())
    worker = rendered("worker")["Deployment"]["spec"]["template"]["spec"]
    assert worker["serviceAccountName"] == "minivess-worker"
    image = pool["variables"]["properties"]["image"]["default"]
    assert worker["containers"][0]["image"] == image
