"""compose.yaml: nothing open to the network, nothing as root, time to drain; and each check can complain."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker.grace import compose_seconds, drain_takes

ROOT = Path(__file__).parents[2]
SERVERS = ("serve", "triton")
Compose = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> Compose:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def ports_are_the_machines_own(compose: Compose) -> list[str]:
    published = [(name, port) for name, each in compose["services"].items() for port in each.get("ports", [])]
    assert published
    return [f"{name}: {port}" for name, port in published if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port))]


def images_are_pinned(compose: Compose) -> list[str]:
    images = {name: each.get("image", "") for name, each in compose["services"].items()}
    return [name for name, image in images.items() if not re.search(r":v?\d+\.\d+\.\d+$", image)]


def rights_are_dropped(compose: Compose) -> list[str]:
    found = []
    for name, each in compose["services"].items():
        if each.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in each.get("security_opt", []):
            found.append(name)
        if name in SERVERS and not (each.get("read_only") and each.get("user") == "10001:10001"):
            found.append(name)
    return found


def memory_is_limited(compose: Compose) -> list[str]:
    limits = {name: each.get("deploy", {}).get("resources", {}) for name, each in compose["services"].items()}
    return [name for name, each in limits.items() if not each.get("limits", {}).get("memory")]


def servers_have_time_to_drain(compose: Compose) -> list[str]:
    periods = {name: compose["services"][name].get("stop_grace_period", "10s") for name in SERVERS}
    return [name for name, period in periods.items() if compose_seconds(period) < drain_takes()]


def servers_have_scratch_and_shared_memory(compose: Compose) -> list[str]:
    found = []
    for name in SERVERS:
        each = compose["services"][name]
        if not any(mount.startswith("/tmp") for mount in each.get("tmpfs", [])) or "shm_size" not in each:
            found.append(name)
    return found


def names_are_declared(compose: Compose) -> list[str]:
    found = []
    for name, each in compose["services"].items():
        found += [f"{name}: {network}" for network in each.get("networks", []) if network not in compose["networks"]]
        found += [f"{name}: {other}" for other in each.get("depends_on", []) if other not in compose["services"]]
        for volume in each.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            known = (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"]
            if not known and "${" not in source:
                found.append(f"{name}: {source}")
        if "build" in each and not (ROOT / each["build"]["dockerfile"]).is_file():
            found.append(f"{name}: {each['build']['dockerfile']}")
    return found


CHECKS: dict[Callable[[Compose], list[str]], tuple[str, Any]] = {
    ports_are_the_machines_own: ("services.serve.ports", ["8000:8000"]),
    images_are_pinned: ("services.grafana.image", "grafana/grafana:latest"),
    rights_are_dropped: ("services.serve.read_only", False),
    memory_is_limited: ("services.prometheus.deploy", {}),
    servers_have_time_to_drain: ("services.serve.stop_grace_period", "10s"),
    servers_have_scratch_and_shared_memory: ("services.triton.tmpfs", []),
    names_are_declared: ("services.grafana.volumes", ["./docker/nothing:/x:ro"]),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_compose_keeps_to(check: Callable[[Compose], list[str]], compose: Compose) -> None:
    """Guards against a stack that is open to the network or cut off in the middle of a picture."""
    assert check(compose) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_can_complain(check: Callable[[Compose], list[str]], compose: Compose) -> None:
    """Guards against a check that passes everything."""
    broken = copy.deepcopy(compose)
    path, value = CHECKS[check]
    *folders, name = path.split(".")
    place = broken
    for folder in folders:
        place = place[folder]
    assert place[name] != value
    place[name] = value
    assert check(broken)


def test_prometheus_asks_the_servers_metrics_ports(compose: Compose) -> None:
    """Guards against a dashboard that is empty because a service was renamed."""
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    assert targets == [f"{name}:8002" for name in SERVERS]
    watched = set(compose["services"]["prometheus"]["networks"])
    assert all(watched & set(compose["services"][name]["networks"]) for name in SERVERS)
    for rules in config["rule_files"]:
        assert (ROOT / "docker" / "prometheus" / Path(rules).name).is_file()


def test_grafana_finds_its_source_and_its_dashboard(compose: Compose) -> None:
    folder = ROOT / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards" / "gesso.yaml").read_text())["providers"]
    mounts = dict(each.split(":")[:2][::-1] for each in compose["services"]["grafana"]["volumes"])
    dashboards = ROOT / mounts[provider["options"]["path"]]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (dashboards / Path(home).name).is_file()
