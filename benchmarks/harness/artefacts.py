"""Checkpoints and bundles for benchmarks: made when they are not there, and made anew when they are out of date.

Beside each stands NAME.key, the digest of all that it is made from. A bundle's is of its checkpoint, of the exporter's
code (and with it of the manifest's schema) and of the precision, so no benchmark measures, or stumbles over, what
another version left. examples/demo.py, which stands alone, has the same rule and the same key for the shipped model's.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import gesso_export
from benchmarks.harness.paths import BIN, EXAMPLES, ROOT

LITTLE_WORLD = EXAMPLES / "little-world"
MAKER = EXAMPLES / "random_checkpoint.py"
EXPORTER = Path(gesso_export.__file__).parent


def shipped() -> Path:
    """The bundle of the model that gesso ships."""
    return exported(LITTLE_WORLD, ROOT / "bundles" / LITTLE_WORLD.name)


def random_bundle(name: str, preset: str, *, half: bool = False, precision: str = "fp32", scratch: Path = ROOT) -> Path:
    """The bundle of a checkpoint of random weights; name, preset, half and scratch as `random_checkpoint` has them."""
    return exported(random_checkpoint(name, preset, half=half, scratch=scratch), scratch / "bundles" / name, precision)


def random_checkpoint(name: str, preset: str, *, half: bool = False, scratch: Path = ROOT) -> Path:
    """preset: of examples/random_checkpoint.py. half: the weights are stored as float16. scratch: the folder of
    checkpoints/ and bundles/."""
    out = scratch / "checkpoints" / name
    options = ["--preset", preset, *(["--half"] if half else [])]

    def make() -> None:
        if out.exists():
            shutil.rmtree(out)
        subprocess.run([sys.executable, str(MAKER), str(out), *options], check=True)

    makers = [*EXAMPLES.glob("random_*.py"), EXAMPLES / "t5_vocabulary.py"]
    return made(out, hashlib.sha256(_digests(makers) + " ".join(options).encode()).hexdigest(), make)


def exported(checkpoint: Path, out: Path, precision: str = "fp32") -> Path:
    """`out`, the bundle of a checkpoint."""
    command = [str(BIN / "gesso-export"), str(checkpoint), "--out", str(out), "--precision", precision, "--force"]
    return made(out, bundle_key(checkpoint, precision), lambda: subprocess.run(command, check=True))


def bundle_key(checkpoint: Path, precision: str = "fp32", exporter: Path = EXPORTER) -> str:
    """Of all that it is made from. In float32 it is what examples/demo.py computes."""
    known = key_file(checkpoint)  # of a checkpoint that was made here: gigabytes that need not be read
    source = known.read_text().encode() if known.exists() else _digests(files(checkpoint))
    name = b"" if precision == "fp32" else precision.encode()
    return hashlib.sha256(source + _digests(files(exporter, "*.py")) + name).hexdigest()


def made(out: Path, key: str, make: Callable[[], object]) -> Path:
    """`out`, made unless it is there with this key; the key is written last, when it is whole."""
    known = key_file(out)
    if not out.exists() or not known.exists() or known.read_text() != key:
        known.unlink(missing_ok=True)
        make()
        known.write_text(key)
    return out


def key_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.key")


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return [path for path in folder.rglob(pattern) if path.is_file()]


def _digests(paths: Iterable[Path]) -> bytes:
    """Of each file, in order of their paths."""
    return b"".join(_digest(path) for path in sorted(paths))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
