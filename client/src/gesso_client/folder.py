"""A folder of photographs, several in flight; a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from gesso_client.client import Client
from gesso_client.errors import GessoError, InvalidRequest
from gesso_client.events import Image
from gesso_client.formats import SUFFIXES
from gesso_client.request import Options
from gesso_client.save import numbered, write_picture

OUTPUT_SUFFIX = ".png"  # lossless: unmasked pixels come out of the file as they went in


@dataclass(frozen=True)
class Done:
    """One photograph: the files it became, or why it did not."""

    photo: Path
    pictures: tuple[tuple[Path, Image], ...] = ()
    error: GessoError | OSError | None = None


def inpaint_folder(
    client: Client, photos: Path, masks: Path | None, output: Path, prompt: str, options: Options, in_flight: int
) -> Iterator[Done]:
    """Inpaint every picture of `photos` with the mask of the same stem in `masks`, into `output`/STEM.png.

    masks: None when the masks are in the alpha of the photographs. Yields as they finish. Closing the iterator, or an
    interrupt while it waits, closes the client and with it every request in flight.
    Raises InvalidRequest when there is nothing to do.
    """
    found = _pictures(photos)
    if not found:
        raise InvalidRequest(f"no picture in the folder {str(photos)!r}", "image")
    by_stem = {} if masks is None else {mask.stem: mask for mask in _pictures(masks)}
    output.mkdir(parents=True, exist_ok=True)

    def one(photo: Path) -> Done:
        if sum(other.stem == photo.stem for other in found) > 1:
            raise InvalidRequest(f"two pictures would both become {photo.stem}{OUTPUT_SUFFIX}", "image")
        mask = by_stem.get(photo.stem)
        if masks is not None and mask is None:
            raise InvalidRequest(f"no mask with the stem {photo.stem!r} in {str(masks)!r}", "mask_image")
        result = client.inpaint(photo, mask, prompt, **options)
        path = output / f"{photo.stem}{OUTPUT_SUFFIX}"
        saved = [(numbered(path, p.index, len(result.pictures)), p) for p in result.pictures]
        for target, picture in saved:
            write_picture(picture.image, target)
        return Done(photo, tuple(saved))

    yield from _each(one, found, in_flight, client.close)


def _each(one: Callable[[Path], Done], photos: list[Path], in_flight: int, stop: Callable[[], None]) -> Iterator[Done]:
    with ThreadPoolExecutor(in_flight, thread_name_prefix="gesso-folder") as pool:
        futures: dict[Future[Done], Path] = {pool.submit(one, photo): photo for photo in photos}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except (GessoError, OSError) as error:
                    yield Done(futures[future], error=error)
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidRequest(f"{str(folder)!r} is not a folder", "image")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
