"""The whole of gesso in one command (`make demo`): bundle, Triton, one job through the SDK, a picture to look at.

Without a bundle of your own it makes one from random weights: what is painted is then noise, and what is shown is that
everything around it works. `make demo BUNDLE=path` serves a real one.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from gesso_client import Client, GessoError, Progress
from gesso_client.bar import ProgressBar
from gesso_client.events import Image as ImageEvent
from gesso_client.pictures import image_pixels, open_picture

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PROMPT = "a hot air balloon in the evening sky"
START_SECONDS = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--image", type=Path, default=HERE / "rocket.jpg")
    parser.add_argument("--mask", type=Path, default=HERE / "rocket-mask.png")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    try:
        random_weights = make_bundle(options.bundle)
        inpaint(options)
    except (GessoError, DemoError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if random_weights:
        print("This bundle has random weights, so the mask is filled with noise; serve your own: make demo BUNDLE=path")
    return 0


class DemoError(Exception):
    pass


def make_bundle(bundle: Path) -> bool:
    """Build the bundle of random weights unless there is one; True if `bundle` is such a one."""
    checkpoint = Path("checkpoints") / bundle.name
    if not bundle.exists():
        if bundle != Path("bundles/demo"):
            raise DemoError(f"{bundle} does not exist; gesso-export makes bundles")
        print("making a tiny checkpoint with random weights and exporting it (once)")
        run([sys.executable, str(HERE / "random_checkpoint.py"), str(checkpoint), "--preset", "tiny"])
        run([str(BIN / "gesso-export"), str(checkpoint), "--out", str(bundle)])
    return bundle == Path("bundles/demo")


def inpaint(options: argparse.Namespace) -> None:
    with serve(options.bundle) as url, Client(url) as client:
        print(f"repainting {options.image.name}: {options.prompt!r}, {options.steps} steps")
        bar = ProgressBar(sys.stdout)
        picture: ImageEvent | None = None
        for event in client.stream(
            options.image, options.mask, options.prompt, num_inference_steps=options.steps, seed=0
        ):
            if isinstance(event, Progress):
                bar.show(event)
            elif isinstance(event, ImageEvent):
                picture = event
        bar.close()
        assert picture is not None, "a stream without an error ends with an image"
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "input-mask-output.png"
        # The photograph as the client sent it: upright and in sRGB, whatever profile its file is in.
        sent = Image.fromarray(image_pixels(open_picture(options.image, "image")))
        side_by_side(sent, Image.open(options.mask), picture.image).save(path)
        print("\n".join(f"  {stage:13} {ms:9.1f} ms" for stage, ms in picture.report["timings_ms"].items()))
        print(f"  {'total':13} {picture.report['total_ms']:9.1f} ms")
        print(f"pixels changed outside the mask: {picture.report['changed_outside_mask']}")
    print(f"wrote {path}")


@contextmanager
def serve(bundle: Path) -> Iterator[str]:
    """A gesso-serve on free ports, stopped cleanly; yields its gRPC address."""
    http, grpc, metrics = free_ports(3)
    server = subprocess.Popen(
        [str(BIN / "gesso-serve"), str(bundle), "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    )
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


def run(command: list[str]) -> None:
    if subprocess.run(command).returncode != 0:
        raise DemoError(f"{Path(command[0]).name} failed")


if __name__ == "__main__":
    sys.exit(main())
