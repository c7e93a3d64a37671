"""gesso-serve: one command from a bundle to a running Triton, watched and drained.

Triton does not restart a dead Python model, and its health endpoints can stay green without it; so the models' own
readiness is watched here, and Triton is restarted when it goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gesso_backend.errors import GessoError, ServeError
from gesso_backend.host import listening, repository, shared_memory, signals, tritonserver
from gesso_backend.host.command import triton_command
from gesso_backend.host.listening import Ports
from gesso_backend.host.scratch import Scratch
from gesso_backend.host.supervisor import Supervisor
from gesso_backend.host.triton_log import tell
from gesso_backend.settings import RULES, Settings


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
    address = listening.numeric(options.host)
    asked = Ports(options.http_port, options.grpc_port, options.metrics_port)
    with listening.claimed(address, asked) as ports, Scratch() as scratch:
        env = tritonserver.environment(server, scratch.folder / "lib")
        backends = tritonserver.backend_folder(server, scratch.folder / "backends")
        fit = shared_memory.fit(settings, len(served))
        names = repository.write(scratch.models, served, fit.settings, scratch.control, fit.waiting_mib)
        if fit.line is not None:
            tell(f"gesso-serve: {fit.line}")
        command = triton_command(server.binary, backends, scratch, address, ports, settings)
        supervisor = Supervisor(command, env, scratch, names, ports, settings.drain_seconds, address, options.verbose)
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


def _reason(error: OSError) -> str:
    """One line of an error; shutil's copies say theirs for each file in a list, with the reason last."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


if __name__ == "__main__":
    sys.exit(main())
