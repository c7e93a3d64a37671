"""gesso-serve: one command from a bundle to a running Triton, watched and drained.

Triton does not restart a dead Python model, and its health endpoints can stay green without it; so the models' own
readiness is watched here, and Triton is restarted when it goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from gesso_backend.errors import GessoError, ServeError
from gesso_backend.host import repository, signals, tritonserver
from gesso_backend.host.scratch import Scratch
from gesso_backend.host.supervisor import EXIT_SECONDS, Ports, Supervisor
from gesso_backend.host.triton_log import tell
from gesso_backend.settings import RULES, Settings

# What Triton would let any client do, and ours need not: map a region of shared memory and read or write it, change the
# log and the trace, and load models. model-config and statistics stay open: the SDK and perf_analyzer read them.
RESTRICTED = ("shared-memory", "model-repository", "logging", "trace")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit status: 0 stopped on request, 1 Triton kept failing, 2 could not start."""
    options = _parser().parse_args(arguments)
    try:
        if options.install_triton:
            print(f"Triton {tritonserver.VERSION} is in {tritonserver.install()}")
            return 0
        with signals.handled_by(signals.interrupt):
            return _serve(options)
    except KeyboardInterrupt:
        tell("gesso-serve: stopped before Triton was started")
        return 0
    except GessoError as error:
        tell(f"gesso-serve: error: {error}")
        return 2
    except OSError as error:
        tell(f"gesso-serve: error: {_reason(error)}")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gesso-serve", description="Serve bundles with NVIDIA Triton.")
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="served as the model `inpaint`")
    parser.add_argument("--name", action="append", default=[], metavar="NAME=BUNDLE", help="a further bundle, by name")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s, this machine only)")
    for port in dataclasses.fields(Ports):
        parser.add_argument(f"--{port.name}-port", type=int, default=port.default, help="(default: %(default)s)")
    for field in dataclasses.fields(Settings):
        if RULES[field.name].help:
            name = "--" + field.name.replace("_", "-")
            text = f"{RULES[field.name].help} (default: %(default)s)"
            parser.add_argument(name, type=type(field.default), default=field.default, help=text)
    parser.add_argument("--repository", type=Path, metavar="DIR", help="only write the model repository to DIR")
    parser.add_argument("--install-triton", action="store_true", help="only install Triton from PyPI")
    parser.add_argument("--verbose", action="store_true", help="show all of Triton's log")
    return parser


def _serve(options: argparse.Namespace) -> int:
    served = _served(options)
    settings = Settings(**{name: getattr(options, name) for name, rule in RULES.items() if rule.help})
    if options.repository is not None:
        names = repository.write(options.repository, served, settings)
        print(f"wrote {', '.join(names)} to {options.repository}")
        return 0
    server = tritonserver.find()
    ports = Ports(options.http_port, options.grpc_port, options.metrics_port)
    _check_ports(options.host, ports)
    with Scratch() as scratch:
        env = tritonserver.environment(server, scratch.folder / "lib")
        backends = tritonserver.backend_folder(server, scratch.folder / "backends")
        names = repository.write(scratch.models, served, settings, scratch.control)
        command = _command(server.binary, backends, scratch, options, ports, settings)
        supervisor = Supervisor(
            command, env, scratch, names, ports, settings.drain_seconds, options.host, options.verbose
        )
        with signals.handled_by(supervisor.asked):
            return supervisor.run()


def _served(options: argparse.Namespace) -> dict[str, Path]:
    served: dict[str, Path] = {}
    if options.bundle is not None:
        served[repository.STREAMING] = options.bundle
    for pair in options.name:
        name, equals, folder = pair.partition("=")
        if not equals or not folder:
            raise ServeError(f"--name: {pair!r} is not NAME=BUNDLE")
        if name in served:
            raise ServeError(f"--name: {name!r} is given twice")
        served[name] = Path(folder)
    if not served:
        raise ServeError("no BUNDLE given; see gesso-serve --help")
    return served


def _command(
    binary: Path, backends: Path, scratch: Scratch, options: argparse.Namespace, ports: Ports, settings: Settings
) -> list[str]:
    """Auto-complete off: the committed config is the whole truth. Model control none: clients cannot load models."""
    flags = {
        "id": scratch.server,
        "model-repository": scratch.models,
        "backend-directory": backends,
        "model-control-mode": "none",
        "exit-timeout-secs": EXIT_SECONDS,
        "grpc-infer-allocation-pool-size": 1,  # of requests with their pictures that are kept, for each kind of call
        "allow-gpu-metrics": str(settings.on_gpu).lower(),
    }
    for name, port in dataclasses.asdict(ports).items():
        flags |= {f"{name}-address": options.host, f"{name}-port": port}
    # A key for this start that nobody is told. Triton takes it on its command line only, which the same machine's users
    # can read: it keeps out the network, not them.
    locked = f"{','.join(RESTRICTED)}:gesso-operator={secrets.token_hex(32)}"
    flags |= {"http-restricted-api": locked, "grpc-restricted-protocol": locked}
    flags["backend-config"] = f"python,shm-region-prefix-name={scratch.regions}"
    return [str(binary), "--disable-auto-complete-config", *(f"--{k}={v}" for k, v in flags.items())]


def _check_ports(host: str, ports: Ports) -> None:
    for name, port in dataclasses.asdict(ports).items():
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServeError(f"{host}:{port} cannot be bound ({error.strerror}); set --{name}-port") from None


def _reason(error: OSError) -> str:
    """One line of an error; shutil's copies say theirs for each file in a list, with the reason last."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


if __name__ == "__main__":
    sys.exit(main())
