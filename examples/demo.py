"""The whole of gesso in one command (`make demo`): bundle, Triton, jobs through the SDK, pictures to look at.

With the model that gesso ships it adds, replaces and removes a thing in a landscape. That model knows only such
landscapes; `make demo BUNDLE=path` serves your own, and repaints a photograph.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import gesso_export
from gesso_client import Client, GessoError, Progress
from gesso_client.bar import ProgressBar
from gesso_client.events import Image as ImageEvent
from gesso_client.pictures import image_pixels
from gesso_client.source import open_picture

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
SHIPPED = Path("bundles/little-world")  # made from examples/little-world
START_SECONDS = 120


@dataclass(frozen=True)
class Edit:
    name: str
    image: Path
    mask: Path
    prompt: str
    guidance_scale: float


LANDSCAPE = HERE / "landscape.png"
EDITS = (
    Edit("add", LANDSCAPE, HERE / "landscape-sky.png", "a red balloon", 3.0),
    Edit("replace", LANDSCAPE, HERE / "landscape-tree.png", "a blue house", 3.0),
    Edit("remove", LANDSCAPE, HERE / "landscape-tree.png", "a beach by the sea on a clear day", 3.0),
)
PHOTOGRAPH = Edit("edit", HERE / "rocket.jpg", HERE / "rocket-mask.png", "a hot air balloon in the evening sky", 7.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    try:
        export_shipped(options.bundle)
        edits = EDITS if options.bundle == SHIPPED else (PHOTOGRAPH,)
        with serve(options.bundle) as url, Client(url) as client:
            for edit in edits:
                inpaint(client, edit, options.steps, options.seed, options.out)
    except (GessoError, DemoError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


class DemoError(Exception):
    pass


def export_shipped(bundle: Path) -> None:
    """Make the bundle of the shipped model unless it is there, and made from this checkpoint by this exporter."""
    if bundle != SHIPPED:
        if not bundle.exists():
            raise DemoError(f"{bundle} does not exist; gesso-export makes bundles")
        return
    checkpoint, key = HERE / SHIPPED.name, SHIPPED.with_name(f"{SHIPPED.name}.key")
    current = bundle_key(checkpoint)
    if bundle.exists() and key.exists() and key.read_text() == current:
        return
    print(f"exporting examples/{SHIPPED.name} (once)")
    run([str(BIN / "gesso-export"), str(checkpoint), "--out", str(bundle), "--force"])
    key.write_text(current)


def bundle_key(checkpoint: Path) -> str:
    """Of all that the bundle is made from: the checkpoint and the exporter's code, so its schema too."""
    exporter = Path(gesso_export.__file__).parent
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file()) + sorted(exporter.rglob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def inpaint(client: Client, edit: Edit, steps: int, seed: int, out: Path) -> None:
    """Submit one job, show its progress, and write `out/NAME.png`: input | mask | output."""
    print(f"{edit.name}: {edit.prompt!r} in {edit.image.name}, {steps} steps")
    bar = ProgressBar(sys.stdout)
    picture: ImageEvent | None = None
    for event in client.stream(
        edit.image,
        edit.mask,
        edit.prompt,
        num_inference_steps=steps,
        guidance_scale=edit.guidance_scale,
        seed=seed,
    ):
        if isinstance(event, Progress):
            bar.show(event)
        elif isinstance(event, ImageEvent):
            picture = event
    bar.close()
    assert picture is not None, "a stream without an error ends with an image"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{edit.name}.png"
    # The picture as the client sent it: upright and in sRGB, whatever profile its file is in.
    sent = Image.fromarray(image_pixels(open_picture(edit.image, "image")))
    side_by_side(sent, Image.open(edit.mask), picture.image).save(path)
    stages = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in picture.report["timings_ms"].items())
    print(f"  {picture.report['total_ms']:.0f} ms: {stages}")
    print(f"  pixels changed outside the mask: {picture.report['changed_outside_mask']}")
    print(f"  wrote {path}")


@contextmanager
def serve(bundle: Path, *arguments: str) -> Iterator[str]:
    """A gesso-serve on free ports, stopped cleanly; yields its gRPC address."""
    http, grpc, metrics = free_ports(3)
    ports = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    server = subprocess.Popen([str(BIN / "gesso-serve"), str(bundle), *ports, *arguments])
    try:
        wait_until_ready(server, f"127.0.0.1:{grpc}")
        yield f"127.0.0.1:{grpc}"
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait()
    if status != 0:
        raise DemoError(f"gesso-serve ended with status {status}")


def wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if server.poll() is not None:
            raise DemoError("the server did not start")
        try:
            with Client(address, retries=0) as client:
                client.info()
                return
        except GessoError:
            time.sleep(0.2)
    raise DemoError(f"the server was not ready after {START_SECONDS} s")


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def side_by_side(*pictures: Image.Image) -> Image.Image:
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture.convert("RGB"), (i * width, 0))
    return sheet


def run(command: Sequence[str]) -> None:
    if subprocess.run(command).returncode != 0:
        raise DemoError(f"{Path(command[0]).name} failed")


if __name__ == "__main__":
    sys.exit(main())
