"""gesso-serve with overhead_model.py in the place of the streaming model. Takes gesso-serve's arguments."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from gesso_backend import repository, serve


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(repository.COMMITTED, models)
        shutil.copy(Path(__file__).with_name("overhead_model.py"), models / repository.STREAMING / "1" / "model.py")
        repository.COMMITTED = models
        return serve.main()


if __name__ == "__main__":
    sys.exit(main())
