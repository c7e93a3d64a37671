"""A folder of photographs, several in flight; a bad one does not stop the others."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from gesso_client.client import Client
from gesso_client.errors import GessoError, InvalidRequest, shortened
from gesso_client.formats import SUFFIXES
from gesso_client.models import ModelInfo
from gesso_client.output import check_folder, check_spares, minds_case
from gesso_client.plan import Plan, outputs_of
from gesso_client.request import Options, Task
from gesso_client.save import Saved, save
from gesso_client.source import open_picture

OUTPUT_SUFFIX = ".png"  # lossless: unmasked pixels come out of the file as they went in
TASK: Task = "inpaint"


@dataclass(frozen=True)
class Errand:
    """One photograph, and the files it is going to be."""

    photo: Path
    output: Path
    outputs: tuple[Path, ...]  # one for each picture of the request


@dataclass(frozen=True)
class Done:
    """One photograph: the files it became, and why it did not become them all."""

    photo: Path
    saved: tuple[Saved, ...] = ()
    error: GessoError | OSError | None = None


@dataclass(frozen=True)
class Folder:
    """Every picture of a folder, to be inpainted with the mask of the same stem, into OUTPUT/STEM.png."""

    info: ModelInfo
    errands: tuple[Errand, ...]
    finished: tuple[Errand, ...]  # by an earlier run
    masks: dict[str, Path] | None  # by stem; None: they are in the alpha of the photographs
    doubled: frozenset[Path]  # photographs that would become a file that another becomes, too

    @classmethod
    def of(
        cls, info: ModelInfo, photos: Path, masks: Path | None, output: Path, options: Options, *, resume: bool
    ) -> Folder:
        """Look at all names; nothing is sent. resume: leave out what an earlier run has finished.

        Raises InvalidRequest when there is nothing to do, when two masks are meant for one photograph, and for outputs
        that are inputs.
        """
        found, given = _pictures(photos), [] if masks is None else _pictures(masks)
        if not found:
            raise InvalidRequest(f"no picture in the folder {str(photos)!r}", "image")
        by_stem: dict[str, Path] = {}
        for mask in given:
            other = by_stem.setdefault(_stem(mask), mask)
            if other != mask:
                raise InvalidRequest(f"{str(other)!r} and {str(mask)!r} are masks of one photograph", "mask_image")
        targets = [output / f"{photo.stem}{OUTPUT_SUFFIX}" for photo in found]
        errands = [
            Errand(photo, target, outputs_of(info, TASK, target, options))
            for photo, target in zip(found, targets, strict=True)
        ]
        check_spares([output], [photos] if masks is None else [photos, masks])
        check_spares(
            (path for errand in errands for path in errand.outputs),
            [*_files(photos), *(_files(masks) if masks else ())],
        )
        check_folder(output)
        name = _stem if minds_case(output) else _caseless
        names = Counter(map(name, found))
        doubled = frozenset(photo for photo in found if names[name(photo)] > 1)
        finished = [errand for errand in errands if resume and all(map(_whole, errand.outputs))]
        left = [errand for errand in errands if errand not in finished]
        return cls(info, tuple(left), tuple(finished), None if masks is None else by_stem, doubled)

    def inpaint(self, client: Client, prompt: str, options: Options, in_flight: int) -> Iterator[Done]:
        """Yields as they finish.

        Closing the iterator, or an interrupt while it waits, closes the client and with it every request in flight.
        """

        def one(errand: Errand) -> Done:
            if errand.photo in self.doubled:
                raise InvalidRequest(f"two pictures would both become {errand.output.name}", "image")
            mask = None if self.masks is None else self.masks.get(_stem(errand.photo))
            if self.masks is not None and mask is None:
                raise InvalidRequest(f"no mask with the stem {errand.photo.stem!r}", "mask_image")
            plan = Plan.of(self.info, TASK, errand.output, options, errand.photo, mask)
            try:
                pictures, error = (
                    client.inpaint(plan.image or errand.photo, plan.mask, prompt, **options).pictures,
                    None,
                )
            except GessoError as caught:
                pictures, error = caught.finished, caught
            return Done(errand.photo, tuple(save(p, plan.output(p.index), plan.extras) for p in pictures), error)

        yield from _each(one, self.errands, in_flight, client.close)


def _each(
    one: Callable[[Errand], Done], errands: tuple[Errand, ...], in_flight: int, stop: Callable[[], None]
) -> Iterator[Done]:
    with ThreadPoolExecutor(in_flight, thread_name_prefix="gesso-folder") as pool:
        futures: dict[Future[Done], Errand] = {pool.submit(one, errand): errand for errand in errands}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except (GessoError, OSError) as error:
                    yield Done(futures[future].photo, error=error)
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise


def _stem(path: Path) -> str:
    """Letters with accents are composed in one way on a Mac and in another elsewhere."""
    return unicodedata.normalize("NFC", path.stem)


def _caseless(path: Path) -> str:
    return _stem(path).casefold()


def _whole(output: Path) -> bool:
    """Whether it is a picture from its first to its last byte."""
    try:
        open_picture(output, "output")
    except GessoError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    """All that are not hidden, as a Mac's `._photo.jpg` and `.DS_Store` are."""
    if not folder.is_dir():
        raise InvalidRequest(f"{shortened(str(folder))} is not a folder", "image")
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.suffix.lower() in SUFFIXES]
