"""The Kubernetes manifests: what their schemas cannot say. Schemas are checked by hand (docs/deployment.md)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker.grace import drain_takes
from gesso_backend.host import supervisor

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
READY, LIVE = "/v2/models/inpaint/ready", "/v2/health/live"
# KServe's ServingRuntimePodSpec and ServingRuntimeSpec (pkg/apis/serving/v1alpha1/servingruntime_types.go)
RUNTIME_FIELDS = {
    "containers", "volumes", "nodeSelector", "affinity", "tolerations", "labels", "annotations", "imagePullSecrets",
    "hostIPC", "supportedModelFormats", "multiModel", "disabled", "protocolVersions", "workerSpec",
}  # fmt: skip
Object = dict[str, Any]


def objects(folder: str) -> list[Object]:
    """What a folder's kustomization lists of its own, as written."""
    listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())["resources"]
    files = [FOLDER / folder / name for name in listed if name.endswith(".yaml")]
    return [each for file in files for each in yaml.safe_load_all(file.read_text())]


def one(folder: str, kind: str) -> Object:
    (found,) = (each for each in objects(folder) if each["kind"] == kind)
    return found


@pytest.fixture
def pod() -> Object:
    return copy.deepcopy(one("base", "Deployment")["spec"]["template"])


@pytest.fixture
def runtime() -> Object:
    return copy.deepcopy(one("kserve", "ServingRuntime")["spec"])


def rights(pod: Object) -> list[str]:
    """What the `restricted` pod security standard asks for, and a read-only root."""
    (container,) = pod["spec"]["containers"]
    own = {**pod["spec"].get("securityContext", {}), **container["securityContext"]}
    wanted = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    wanted |= {"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 10001}
    return [name for name, value in wanted.items() if own.get(name) != value]


def probes(pod: Object) -> list[str]:
    (container,) = pod["spec"]["containers"]
    wanted = {"startupProbe": READY, "readinessProbe": READY, "livenessProbe": LIVE}
    found = [name for name, path in wanted.items() if container[name]["httpGet"]["path"] != path]
    startup = container["startupProbe"]
    if startup["periodSeconds"] * startup["failureThreshold"] < supervisor.READY_SECONDS:
        found.append("the startup probe gives up before gesso-serve does")
    liveness = container["livenessProbe"]
    if liveness["periodSeconds"] * liveness["failureThreshold"] < sum(supervisor.BACK_OFF_SECONDS):
        found.append("the liveness probe kills gesso-serve while it restarts Triton")
    return found


def grace(pod: Object) -> list[str]:
    (container,) = pod["spec"]["containers"]
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return [] if pod["spec"]["terminationGracePeriodSeconds"] >= sleep + drain_takes() else ["killed while draining"]


def room(pod: Object) -> list[str]:
    """Requests, a memory limit, and folders to write to."""
    (container,) = pod["spec"]["containers"]
    found = [] if {"cpu", "memory"} <= set(container["resources"]["requests"]) else ["no requests"]
    found += [] if "memory" in container["resources"]["limits"] else ["no memory limit"]
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    found += [path for path in ("/tmp", "/dev/shm") if mounts.get(path) not in volumes]
    return found + [name for name in mounts.values() if name not in volumes]


POD_CHECKS: dict[Callable[[Object], list[str]], tuple[str, str, Any]] = {
    rights: ("containers.0.securityContext", "readOnlyRootFilesystem", False),
    probes: ("containers.0.readinessProbe.httpGet", "path", "/v2/health/ready"),
    grace: ("", "terminationGracePeriodSeconds", 30),
    room: ("containers.0.resources", "limits", {}),
}


@pytest.mark.parametrize("check", POD_CHECKS, ids=lambda check: check.__name__)
def test_the_pod_has_its(check: Callable[[Object], list[str]], pod: Object) -> None:
    """Guards against a pod that runs as root, is called ready without its model, or is killed in a picture."""
    assert check(pod) == []


@pytest.mark.parametrize("check", POD_CHECKS, ids=lambda check: check.__name__)
def test_every_check_can_complain(check: Callable[[Object], list[str]], pod: Object) -> None:
    path, name, value = POD_CHECKS[check]
    place: Any = pod["spec"]
    for part in path.split(".") if path else []:
        place = place[int(part)] if part.isdigit() else place[part]
    assert place[name] != value
    place[name] = value
    assert check(pod)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in FOLDER.glob("*/kustomization.yaml")))
def test_every_file_is_listed_and_every_listed_one_is_there(folder: str) -> None:
    """Guards against a manifest that nobody applies."""
    listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())["resources"]
    assert all((FOLDER / folder / name).exists() for name in listed)
    files = {path.name for path in (FOLDER / folder).glob("*.yaml")}
    assert files == {name for name in listed if name.endswith(".yaml")} | {"kustomization.yaml"}


def test_selectors_find_the_pods(pod: Object) -> None:
    """Guards against a disruption budget, a policy or a service for no pod; kustomize once left the budget without."""
    labels = pod["metadata"]["labels"].items()
    base = {each["kind"]: each["spec"] for each in objects("base") if "spec" in each}
    found = [
        base["Deployment"]["selector"],
        base["PodDisruptionBudget"]["selector"],
        base["NetworkPolicy"]["podSelector"],
    ]
    found.append(one("keda", "PodMonitor")["spec"]["selector"])
    for selector in found:
        assert selector["matchLabels"]
        assert selector["matchLabels"].items() <= labels
    services = [each["spec"]["selector"] for each in objects("base") if each["kind"] == "Service"]
    assert services
    assert all(selector and selector.items() <= labels for selector in services)


def test_port_names_are_the_containers(pod: Object) -> None:
    """Guards against a service or a monitor that asks for a port nobody has."""
    ports = {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    services = [each["spec"] for each in objects("base") if each["kind"] == "Service"]
    used = {port["targetPort"] for service in services for port in service["ports"]}
    policy = one("base", "NetworkPolicy")["spec"]["ingress"]
    used |= {port["port"] for rule in policy for port in rule["ports"]}
    used |= {each["port"] for each in one("keda", "PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert used == set(ports)


def test_nothing_gets_out_and_only_clients_get_in() -> None:
    """Triton asks nobody who they are."""
    spec = one("base", "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    assert all(rule["from"] and rule["ports"] for rule in spec["ingress"])


def test_the_autoscaler_owns_the_deployments_replicas() -> None:
    """Guards against a rollout that sets the number back, and an average over a metric that is a sum."""
    scaled, deployment = one("keda", "ScaledObject")["spec"], one("base", "Deployment")
    assert scaled["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gesso"}
    assert deployment["metadata"]["name"] == "gesso"
    assert "replicas" not in deployment["spec"]
    assert 1 <= scaled["minReplicaCount"] <= scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]
    (trigger,) = scaled["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    assert all(isinstance(value, str) for value in trigger["metadata"].values())  # KEDA's metadata are strings
    assert trigger["metadata"]["query"].startswith("sum(gesso_queue_depth{")
    assert float(trigger["metadata"]["threshold"]) > 0


def test_the_kserve_runtime_serves_what_kserve_fetched(runtime: Object) -> None:
    """Guards against a runtime that looks for its bundle where KServe does not put it."""
    assert set(runtime) <= RUNTIME_FIELDS
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    assert container["args"][0] == "/mnt/models"
    assert container["args"][-2:] == ["--http-port", "8080"]
    assert [port["containerPort"] for port in container["ports"]] == [8080]
    pod = {"spec": {**runtime, "terminationGracePeriodSeconds": 60}}
    assert rights(pod) == probes(pod) == room(pod) == []
    assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        8080
    }
    container["securityContext"]["runAsUser"] = 0
    assert rights(pod)


def test_the_example_service_asks_for_the_runtime(runtime: Object) -> None:
    predictor = one("kserve", "InferenceService")["spec"]["predictor"]
    model = predictor["model"]
    assert model["runtime"] == one("kserve", "ServingRuntime")["metadata"]["name"]
    formats = [{"name": each["name"], "version": each["version"]} for each in runtime["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert (
        model["storageUri"].removeprefix("pvc://").split("/")[0]
        == one("base", "PersistentVolumeClaim")["metadata"]["name"]
    )
    assert predictor["terminationGracePeriodSeconds"] >= drain_takes()


def test_the_bundles_schema_is_the_runtimes_format(runtime: Object) -> None:
    """Guards against a runtime that takes bundles its server refuses."""
    from gesso_backend.model.bundle import SCHEMA_VERSION

    assert [each["version"] for each in runtime["supportedModelFormats"]] == [str(SCHEMA_VERSION)]


def test_the_cpu_variant_removes_what_it_means_to(pod: Object) -> None:
    """Its patches name positions; guards against a reordered deployment."""
    text = (FOLDER / "cpu" / "kustomization.yaml").read_text()
    assert "volumeMounts/0" in text
    assert "volumes/0" in text
    assert pod["spec"]["containers"][0]["volumeMounts"][0]["name"] == "bundles"
    assert pod["spec"]["volumes"][0]["name"] == "bundles"
