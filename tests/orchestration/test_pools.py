"""Base job templates of work pools, rendered by Prefect's own classes and checked by schema."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

CLONE = Path(__file__).resolve().parents[2]
TEMPLATE = json.loads((CLONE / "deployments" / "pools" / "k8s-gpu.json").read_text())
SCHEMA = "1.31"


def manifest(template: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The job that a worker of the pool would send."""
    worker = pytest.importorskip(
        "prefect_kubernetes.worker", reason="pip install prefect-kubernetes"
    )
    from prefect.client.schemas import FlowRun
    from prefect.utilities.templating import apply_values

    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="train · lab stacks · 1 model x 2 folds")
    defaults = {
        name: variable["default"]
        for name, variable in template["variables"]["properties"].items()
        if "default" in variable
    }
    filled = apply_values(deepcopy(template["job_configuration"]), {**defaults, **values})
    configuration = worker.KubernetesWorkerJobConfiguration(**filled)
    configuration.prepare_for_flow_run(run)
    return dict(configuration.job_manifest)


def check(job: dict[str, Any]) -> None:
    """Validate against the strict schema of Kubernetes."""
    schema = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    schema.validate(job, SCHEMA, strict=True)


def test_a_job_on_kubernetes_is_valid_by_its_strict_schema() -> None:
    job = manifest(TEMPLATE, gpus=2, memory_limit="96Gi")
    check(job)
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert (spec["parallelism"], spec["completions"]) == (1, 1)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["resources"]["limits"]["memory"] == "96Gi"
    assert container["resources"]["requests"]["memory"] == "32Gi"
    assert {"name": "MINIVESS_HOME", "value": "/output"} in container["env"]
    mounts = {one["mountPath"]: one.get("readOnly", False) for one in container["volumeMounts"]}
    assert mounts == {"/data": True, "/output": False}


@pytest.mark.parametrize("place", [(), ("template", "spec")], ids=["of the job", "of the pod"])
def test_a_misspelt_field_is_refused(place: tuple[str, ...]) -> None:
    wrong = deepcopy(TEMPLATE)
    part = wrong["job_configuration"]["job_manifest"]["spec"]
    for name in place:
        part = part[name]
    part["parallelismm"] = 1
    job = manifest(wrong)
    with pytest.raises(Exception, match="parallelismm"):
        check(job)
