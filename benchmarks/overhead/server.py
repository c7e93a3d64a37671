"""gesso-serve with model.py, beside this, in the place of the streaming model. Takes gesso-serve's arguments."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from gesso_backend.host import repository, serve

MODEL = Path(__file__).with_name("model.py")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(repository.COMMITTED, models)
        shutil.copy(MODEL, models / repository.STREAMING / "1" / "model.py")
        repository.COMMITTED = models
        return serve.main()


if __name__ == "__main__":
    sys.exit(main())
