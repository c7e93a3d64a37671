"""Run the steps of docker/cpu.Dockerfile without Docker, start what they made, and paint one picture through it.

    python docker/prove_cpu.py --python PREFIX --out FOLDER

For machines that have no Docker daemon: Debian 12, as root. PREFIX is a Python 3.11 installation with its shared
library, which plays the base image's. Every step runs in a clean tree (stage_tree.py); the result is started as its
ENTRYPOINT and CMD say, as its USER, with a read-only root and no network but its own loopback, and asked by its
HEALTHCHECK.
Variables named PIP_* and *_proxy reach the steps, and folders given with --bind, for hosts behind a mirror.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stage_tree
from build_context import BuildContext
from container import Container, World
from dockerfile import Dockerfile, Instruction, Stage, argument_default, parse, substitute
from stage_tree import BASE_PATH, StageTree

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
READY_SECONDS, POLL_SECONDS = 180.0, 0.5
INSIDE = "--inside"
UNTOUCHED = """
import numpy, PIL.Image
before, after, mask = (numpy.asarray(PIL.Image.open(f'/tmp/{n}.png').convert(m)) for n, m in
                       (('image', 'RGB'), ('painted', 'RGB'), ('mask', 'L')))
changed = (before != after).any(axis=-1)
assert not changed[mask == 0].any(), 'pixels outside the mask changed'
assert changed[mask == 255].mean() > 0.5, 'the mask was not painted'
print(f'{before.shape}: {changed[mask == 255].mean():.0%} of the mask repainted, 0 pixels outside it')
"""


class Proof:
    """The images of all stages, by name and number, made in order."""

    def __init__(self, dockerfile: Dockerfile, context: BuildContext, work: Path, python: Path, binds: list[Path]):
        self._dockerfile = dockerfile
        self._context = context
        self._work = work
        self._python = work / "python"
        self._binds = binds
        self._trees: dict[str, StageTree] = {}
        self.variables: dict[str, str] = {}
        self.folder = "/"
        self.user = "0:0"
        stage_tree.copy_python(python, self._python)

    def build(self) -> StageTree:
        for number, stage in enumerate(self._dockerfile.stages):
            name = stage.name or str(number)
            final = stage is self._dockerfile.final
            tree = StageTree(self._work / name, self._python, [] if final else self._binds)
            self._trees[name] = tree
            self._build_stage(stage, name, tree)
        return tree

    def _build_stage(self, stage: Stage, name: str, tree: StageTree) -> None:
        image = substitute(stage.image, self._dockerfile.defaults())
        print(f"[{name}] FROM {image}: played by Debian 12's /usr and the Python given", flush=True)
        self.variables, self.folder, self.user = {"PATH": BASE_PATH, "HOME": "/root"}, "/", "0:0"
        arguments: dict[str, str] = {}
        for step in stage.instructions:
            print(f"[{name}] {step.keyword} {step.text}", flush=True)
            known = {**arguments, **self.variables}
            if step.keyword == "ARG":
                key, default = argument_default(step)
                arguments[key] = default
            elif step.keyword == "ENV":
                self.variables |= {key: substitute(value, known) for key, value in step.pairs().items()}
            elif step.keyword == "WORKDIR":
                self.folder = substitute(step.text, known)
                tree.inside(self.folder).mkdir(parents=True, exist_ok=True)
            elif step.keyword == "USER":
                self.user = step.text
            elif step.keyword == "COPY":
                self._copy(step, tree)
            elif step.keyword == "RUN":
                words = step.exec_form() or ["/bin/sh", "-c", step.text]
                tree.run(words, {**_passed_on(), **known}, self.folder, self.user)

    def _copy(self, step: Instruction, tree: StageTree) -> None:
        *sources, target = step.words()
        origin = self._trees[step.flags["from"]].root if "from" in step.flags else self._context.folder
        folder = tree.inside(target if target.startswith("/") else f"{self.folder}/{target}")
        for source in sources:
            found = origin / source.strip("/")
            if not found.exists():
                raise FileNotFoundError(f"COPY {source}: not in the build context (see .dockerignore)")
            if found.is_dir():
                shutil.copytree(found, folder, symlinks=True, dirs_exist_ok=True)
                continue
            place = folder / found.name if target.endswith("/") or folder.is_dir() else folder
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, place)
            if mode := step.flags.get("chmod"):
                place.chmod(int(mode, 8))


def _passed_on() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.lower().endswith("_proxy")}


@contextmanager
def started(proof: Proof, tree: StageTree, dockerfile: Dockerfile, log: Path) -> Iterator[Container]:
    entry, command = dockerfile.final.last("ENTRYPOINT"), dockerfile.final.last("CMD")
    assert entry is not None
    assert command is not None
    tree.freeze()
    world = World(proof.variables, proof.folder, proof.user)
    container = Container(tree, world, [*entry.words(), *command.words()], log)
    try:
        yield container
    finally:
        container.kill()


def prove(container: Container, health: list[str], out: Path) -> None:
    """Health, one picture, metrics, users, libraries; then a SIGTERM."""
    if container.run(*health).returncode == 0:
        raise SystemExit("the health check says ready before the server can be")
    give_up = time.monotonic() + READY_SECONDS
    while (done := container.run(*health)).returncode != 0:
        if time.monotonic() > give_up:
            raise SystemExit(f"not ready: {done.stderr}\n{container.log.read_text()}")
        time.sleep(POLL_SECONDS)
    print(f"health check: {done.stdout.strip()} (status 0; 1 before the server was up)")
    missing = container.run(*health, variables={"GESSO_HEALTH": "http://127.0.0.1:8000/v2/models/nobody/ready"})
    print(f"health check of a model that is not there: status {missing.returncode}, {missing.stderr.strip()}")
    if missing.returncode != 1:
        raise SystemExit("the health check cannot fail")
    for name, file in (("image", "landscape.png"), ("mask", "landscape-sky.png")):
        shutil.copyfile(EXAMPLES / file, container.place(f"{name}.png"))
    files = ("/tmp/image.png", "--mask", "/tmp/mask.png", "-o", "/tmp/painted.png")
    print(container.must("gesso", "inpaint", *files, "--prompt", "a red balloon", "--seed", "1"))
    print(container.must("python3", "-c", UNTOUCHED))
    shutil.copyfile(container.place("painted.png"), out / "painted.png")
    page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8002/metrics').read().decode())"
    (out / "metrics.txt").write_text(container.must("python3", "-c", page))
    rights = container.rights()
    print(f"{len(rights)} processes, with {' and '.join(sorted(set(rights)))}")
    print(f"packages of Debian that they have mapped: {', '.join(sorted(container.packages()))}")
    print(f"after SIGTERM: status {container.stop()}; last words: {container.log.read_text().splitlines()[-1]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, required=True, metavar="PREFIX")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new; the trees are put there")
    parser.add_argument("--context", type=Path, default=ROOT, help="the build context (default: this repository)")
    parser.add_argument("--bind", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, for mounts of its own")
    if not options.inside:
        stage_tree.enter_namespace(__file__, [*sys.argv[1:], INSIDE])
    out = options.out.resolve()
    out.mkdir(parents=True)
    dockerfile = parse(ROOT / "docker" / "cpu.Dockerfile")
    context = BuildContext.make(options.context.resolve(), out / "context")
    proof = Proof(dockerfile, context, out, options.python.resolve(), options.bind)
    tree = proof.build()
    check = dockerfile.final.last("HEALTHCHECK")
    assert check is not None
    with started(proof, tree, dockerfile, out / "server.log") as container:
        prove(container, Instruction("CMD", check.text.removeprefix("CMD "), {}, check.line).words(), out)
    sizes = tree.made()
    print("added to the base image, MiB on disk: " + ", ".join(f"{k} {v / 2**20:.1f}" for k, v in sizes.items()))
    print(f"together {sum(sizes.values()) / 2**20:.1f} MiB; the base image itself is not counted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
