"""Base job templates of work pools, rendered by Prefect's own classes and checked by schema."""

from __future__ import annotations

import importlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas import FlowRun
from prefect.utilities.templating import apply_values

CLONE = Path(__file__).resolve().parents[2]
POOLS = CLONE / "deployments" / "pools"
TEMPLATE = json.loads((POOLS / "k8s-gpu.json").read_text())
SCHEMA = "1.31"


def run() -> FlowRun:
    """A run as a worker gets it."""
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="train · lab stacks · 1 model x 2 folds")


def filled(template: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The job configuration of a template with its defaults and `values`."""
    defaults = {
        name: variable["default"]
        for name, variable in template["variables"]["properties"].items()
        if "default" in variable
    }
    configuration = deepcopy(template["job_configuration"])
    return dict(apply_values(configuration, {**defaults, **values}))


def manifest(template: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The job that a worker of the pool would send."""
    worker = pytest.importorskip(
        "prefect_kubernetes.worker", reason="pip install prefect-kubernetes"
    )
    configuration = worker.KubernetesWorkerJobConfiguration(**filled(template, values))
    configuration.prepare_for_flow_run(run())
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


def container(**values: Any) -> dict[str, Any]:
    """What the docker worker asks an engine for."""
    worker = pytest.importorskip("prefect_docker.worker", reason="pip install prefect-docker")
    template = json.loads((POOLS / "local-docker.json").read_text())
    assert set(values) <= set(template["variables"]["properties"])
    chosen = filled(template, values)
    # For a server of this machine the engine would be asked how the container reaches it.
    chosen["env"]["PREFECT_API_URL"] = "http://prefect.lab:4200/api"
    configuration = worker.DockerWorkerJobConfiguration(**chosen)
    configuration.prepare_for_flow_run(run())
    settings: dict[str, Any] = worker.DockerWorker._build_container_settings(
        worker.DockerWorker(work_pool_name="local-docker"), docker_client=None,
        configuration=configuration,
    )  # fmt: skip
    return settings


def test_a_container_of_the_docker_pool_reads_the_data_and_writes_the_output() -> None:
    settings = container(data="/lab/vessels", output="/lab/results", user="2001:2001")
    assert settings["volumes"] == ["/lab/vessels:/data:ro", "/lab/results:/output"]
    assert settings["environment"]["MINIVESS_HOME"] == "/output"
    assert settings["command"] == "prefect flow-run execute"
    assert (settings["user"], settings["read_only"], settings["privileged"]) == (
        "2001:2001", True, False,
    )  # fmt: skip


def test_gpus_of_the_docker_pool_are_asked_for_as_the_engine_takes_them() -> None:
    docker = pytest.importorskip("docker", reason="pip install prefect-docker")
    wanted = [{"Count": -1, "Capabilities": [["gpu"]]}]
    settings = container(device_requests=wanted)
    kept = {"device_requests", "read_only", "security_opt", "shm_size", "tmpfs"}
    host = docker.types.HostConfig(version="1.41", **{k: settings[k] for k in kept})
    assert (host["DeviceRequests"][0]["Count"], host["ReadonlyRootfs"]) == (-1, True)
    assert container()["device_requests"] == []


def test_pools_get_deployments_of_flows_that_are_there() -> None:
    deployments = yaml.safe_load((POOLS.parent / "pools.yaml").read_text())["deployments"]
    for one in deployments:
        file, _, function = one["entrypoint"].partition(":")
        assert hasattr(
            importlib.import_module(file.removesuffix(".py").replace("/", ".")), function
        )
        assert (POOLS / f"{one['work_pool']['name']}.json").is_file()
    assert {one["name"] for one in deployments} == {"docker", "kubernetes"}
