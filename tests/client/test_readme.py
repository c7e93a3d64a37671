"""What client/README.md says is so."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from gesso_client.request import CLIENT_OPTIONS, Options
from gesso_client.upload import OWN

ROOT = Path(__file__).parents[2]
README = (ROOT / "client" / "README.md").read_text(encoding="utf-8")


def first_column(page: str, header: str) -> list[str]:
    """The names in the first column of the table whose header begins so."""
    (table,) = re.findall(rf"^\| {header} \|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_clients_own_options_are_listed_and_no_others() -> None:
    assert first_column(README, "option") == list(CLIENT_OPTIONS)


def test_every_parameter_of_the_wire_is_a_keyword_argument_of_the_same_name() -> None:
    inputs = first_column((ROOT / "docs" / "api.md").read_text(encoding="utf-8"), "input")
    of_the_model = Options.__annotations__.keys() - set(CLIENT_OPTIONS)
    assert of_the_model | {"prompt", "image", "mask_image", *OWN} == set(inputs)


def test_the_example_of_a_fake_transport_runs(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README.split("## Testing your own program")[1], re.DOTALL)[0]
    file = tmp_path / "example.py"
    file.write_text(example, encoding="utf-8")
    assert len(runpy.run_path(str(file))["transport"].requests) == 2
