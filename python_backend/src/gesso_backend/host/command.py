"""The command that starts Triton: closed to all but inference and what clients must know."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

from gesso_backend.host import readers
from gesso_backend.host.listening import Ports, for_triton
from gesso_backend.host.scratch import Scratch
from gesso_backend.host.supervisor import EXIT_SECONDS
from gesso_backend.settings import Settings

# What an outsider could read pictures with, silence the log with, or learn the machine from. The rest stays open:
# health, metadata, inference, model-config (the SDK and perf_analyzer read it) and statistics.
RESTRICTED = ("shared-memory", "model-repository", "logging", "trace")
# Triton takes its restrictions' keys on its command line only, where every user of this machine can read them. So none
# works: a header of gRPC cannot have a space in its name, nor one of HTTP a line feed in its value.
KEY_NAME = "gesso nobody"


def triton_command(
    binary: Path, backends: Path, scratch: Scratch, address: str, ports: Ports, settings: Settings
) -> list[str]:
    """Auto-complete off: the committed config is the whole truth. Model control none: clients cannot load models.

    address: numeric.
    """
    flags: dict[str, object] = {
        "id": scratch.server,
        "model-repository": scratch.models,
        "backend-directory": backends,
        "model-control-mode": "none",
        "exit-timeout-secs": EXIT_SECONDS,
        "allow-gpu-metrics": str(settings.on_gpu).lower(),
        "backend-config": f"python,shm-region-prefix-name={scratch.regions}",
    }
    flags |= readers.grpc_flags(settings.stream_seconds)
    http, grpc = for_triton(address)
    for name, port in dataclasses.asdict(ports).items():
        flags |= {f"{name}-address": grpc if name == "grpc" else http, f"{name}-port": port}
    for flag in ("http-restricted-api", "grpc-restricted-protocol"):
        value = f"{secrets.token_urlsafe(32)}\n{secrets.token_urlsafe(32)}"
        flags[flag] = f"{','.join(RESTRICTED)}:{KEY_NAME}={value}"
    return [str(binary), "--disable-auto-complete-config", *(f"--{name}={value}" for name, value in flags.items())]
