"""One picture on the command line: followed step by step, and written as soon as it is there."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from gesso_client.bar import ProgressBar
from gesso_client.client import Client
from gesso_client.console import complain, tell
from gesso_client.events import Preview, Progress
from gesso_client.output import check_folder, check_spares
from gesso_client.plan import Plan
from gesso_client.request import Options
from gesso_client.save import save, write_picture


class Previews:
    """The files of the previews; None: there are none."""

    def __init__(self, folder: Path | None, stem: str, inputs: Iterable[Path]) -> None:
        """Raises InvalidRequest where they could not be written, or would be written over an input."""
        self._folder, self._stem, self._inputs = folder, stem, list(inputs)
        if folder is not None:
            check_folder(folder)
            names = re.compile(re.escape(_folded(stem)) + r"-\d+-\d+\.png")
            check_spares((path for path in folder.iterdir() if names.fullmatch(_folded(path.name))), self._inputs)

    def write(self, preview: Preview) -> None:
        """The picture is worth more than its previews: the first that cannot be written is the last."""
        if self._folder is None:
            return
        path = self._folder / f"{self._stem}-{preview.index}-{preview.step:04}.png"
        try:
            check_spares([path], self._inputs)
            write_picture(preview.image, path)
        except Exception as error:
            complain(f"no more previews: {error}")
            self._folder = None


def run(client: Client, plan: Plan, prompt: str, options: Options, previews: Previews) -> bool:
    """Follow a request to its end; whether all its pictures are where they should be. Leaving it early cancels it."""
    bar, told, placed = ProgressBar(sys.stderr), set[str](), True
    job = client.submit(plan.image, plan.mask, prompt, **options)
    try:
        for event in job.events():
            if isinstance(event, Progress):
                bar.show(event)
            elif isinstance(event, Preview):
                previews.write(event)
            else:
                bar.close()
                placed &= tell(save(event, plan.output(event.index), plan.extras), told)
    except BaseException:
        job.cancel()
        raise
    finally:
        bar.close()
    return placed


def _folded(name: str) -> str:
    """As a file system may compare names that are not equal."""
    return unicodedata.normalize("NFC", name).casefold()
