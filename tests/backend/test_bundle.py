"""The manifest is parsed strictly: every fault is an error that names its key or file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.fakes import fake_bundle, manifest, write_bundle
from backend.real import Real
from gesso_backend.errors import BundleError
from gesso_backend.kinds import open_bundle, parse_bundle
from gesso_backend.model import manifest as manifests

Document = dict[str, Any]


def put(path: str, value: Any) -> Callable[[Document], None]:
    """Set the value at a dotted path."""

    def change(document: Document) -> None:
        *parents, last = path.split(".")
        for key in parents:
            document = document[key]
        document[last] = value

    return change


def drop(path: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *parents, last = path.split(".")
        for key in parents:
            document = document[key]
        del document[last]

    return change


FAULTS: dict[str, tuple[Callable[[Document], None], str]] = {
    "unknown key": (put("flavour", 1), "flavour: unknown key"),
    "unknown key in a part": (put("vae.colour", 1), "vae.colour: unknown key"),
    "unknown key in a network": (put("networks.unet.engine", "x"), "networks.unet.engine: unknown key"),
    "unknown key of a bound": (put("parameters.strength.max", 1), "parameters.strength.max: unknown key"),
    "missing key": (drop("license"), "license: missing"),
    "missing key in a part": (drop("size.native"), "size.native: missing"),
    "missing key in a file": (drop("files"), "files: missing"),
    "missing type of a parameter": (drop("parameters.strength.type"), "parameters.strength.type: missing"),
    "missing parameter": (drop("parameters.strength"), "parameters.strength: missing"),
    "unknown parameter": (put("parameters.cfg", {"type": "int"}), "parameters.cfg: unknown key"),
    "missing network": (drop("networks.unet"), "networks: 'unet' is missing"),
    "text for a number": (put("vae.factor", "8"), "vae.factor: expected int, found '8'"),
    "float for an int": (put("vae.factor", 8.0), "vae.factor: expected int, found 8.0"),
    "bool for an int": (put("size.multiple", True), "size.multiple: expected int, found True"),
    "null for a number": (put("vae.scaling_factor", None), "vae.scaling_factor: expected float, found None"),
    "number for a text": (put("name", 7), "name: expected str, found 7"),
    "list for an object": (put("networks", []), "networks: expected an object, found []"),
    "object for a list": (put("preview_rgb.bias", {}), "preview_rgb.bias: expected a list, found {}"),
    "text in a list": (put("preview_rgb.bias", [0, "0", 0]), "preview_rgb.bias[1]: expected float, found '0'"),
    "unknown type of a parameter": (
        put("parameters.strength.type", "integer"),
        "parameters.strength.type: 'integer' is not one of string, int, float, bool",
    ),
    "another schema": (put("schema_version", 3), "schema_version: 3 is not 4; export again with this gesso-export"),
    "no schema": (drop("schema_version"), "schema_version: None is not 4; export again with this gesso-export"),
    "another kind": (put("kind", "video"), "kind: 'video' is not one of diffusion"),
    "a kind that is no text": (put("kind", ["diffusion"]), "kind: ['diffusion'] is not one of diffusion"),
    "a plain network called native": (
        put("networks.unet.inputs.sample.shape", ["batch", 4, "latent_height", "latent_width"]),
        "networks.unet.inputs.sample: 4 channels, expected 9",
    ),
    "a native one called plain": (
        put("native_inpainting", False),
        "networks.unet.inputs.sample: 9 channels, expected 4",
    ),
    "a denoiser that is not there": (put("denoiser", "dit"), "networks: 'dit' is missing"),
    "an axis of another name": (
        put("networks.unet.outputs.noise_pred.shape", ["batch", 4, "h", "w"]),
        "networks.unet.outputs.noise_pred: 'h' is not one of batch, tokens, latent_height, latent_width, height, width",
    ),
    "another family": (
        put("family", "kandinsky"),
        "family: 'kandinsky' is not one of flux, stable-diffusion-xl, stable-diffusion",
    ),
    "a network's file unlisted": (
        put("networks.unet.file", "other.onnx"),
        "networks.unet.file: 'other.onnx' is not in files",
    ),
    "the tokenizer's file unlisted": (
        put("tokenizers.text_encoder.file", "t.json"),
        "tokenizers.text_encoder.file: 't.json' is not in files",
    ),
    "five channels": (
        put("networks.unet.inputs.sample.shape", ["batch", 5, "latent_height", "latent_width"]),
        "networks.unet.inputs.sample: 5 channels, expected 9",
    ),
    "a preview of three latents": (put("preview_rgb.matrix", [[0, 0, 0]] * 3), "preview_rgb.matrix: 3 rows for 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_manifest_names_its_key(fault: str) -> None:
    """Guards against serving a bundle of another mind: silently dropped keys, defaults for lost ones, wrong types."""
    change, message = FAULTS[fault]
    document = manifest()
    change(document)
    with pytest.raises(BundleError) as caught:
        parse_bundle(document)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("document", [None, [], "bundle", 1])
def test_a_manifest_that_is_no_object_is_a_bundle_error(document: Any) -> None:
    """Guards against a traceback for a file that is JSON but nothing else."""
    with pytest.raises(BundleError, match=r"bundle\.json: expected an object"):
        parse_bundle(document)


def test_a_whole_manifest_becomes_frozen_dataclasses() -> None:
    """Guards the tests above, which prove nothing if the unspoiled manifest fails; and the types that come out."""
    bundle = fake_bundle()
    assert bundle == parse_bundle(manifest())
    assert bundle.native_inpainting
    assert not fake_bundle(in_channels=4).native_inpainting
    assert bundle.preview_rgb.matrix[1] == (0.0, 1.0, 0.0)
    assert type(bundle.preview_rgb.matrix[1][1]) is float
    assert bundle.networks["unet"].inputs["sample"].shape == ("batch", 9, "latent_height", "latent_width")
    assert bundle.source.revision is None
    assert bundle.parameters["scheduler"].choices is not None
    assert bundle.parameters["seed"].default is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.vae.factor = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        bundle.parameters["seed"] = bundle.parameters["height"]  # type: ignore[index]


def test_describe_is_json_and_has_no_secrets_of_the_export() -> None:
    """Guards what clients are told: bounds and sizes, not paths, hashes or the checkpoint's place."""
    described = json.loads(json.dumps(fake_bundle().describe({"max_image_pixels": 9})))
    assert set(described) == {
        "schema_version", "kind", "name", "family", "native_inpainting", "tasks", "size", "parameters", "task_defaults",
        "limits",
    }  # fmt: skip
    assert described["parameters"]["seed"] == {"type": "int", "datatype": "INT64", "minimum": 0, "maximum": 2**63 - 1}
    assert described["parameters"]["latent_blend"] == {"type": "bool", "datatype": "BOOL", "default": True}


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose files are real, and small."""
    return write_bundle(tmp_path)


def fails(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    return str(caught.value)


def test_a_whole_folder_loads(folder: Path) -> None:
    """Guards the tests below, as above."""
    assert open_bundle(folder) == parse_bundle(json.loads((folder / "bundle.json").read_text()))


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    """Guards the commonest slip: the checkpoint's folder given for the bundle's."""
    assert fails(tmp_path) == f"{tmp_path} is not a bundle: it has no bundle.json"
    assert fails(tmp_path / "nowhere").endswith("is not a bundle: it has no bundle.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_manifest_that_is_not_json_names_its_file(folder: Path, content: bytes) -> None:
    """Guards against a decoder's traceback."""
    (folder / "bundle.json").write_bytes(content)
    assert fails(folder).startswith(f"{folder / 'bundle.json'}: ")


def test_a_missing_file_is_named(folder: Path) -> None:
    """Guards a copy that was not finished."""
    (folder / "unet.onnx").unlink()
    assert fails(folder) == "files.unet.onnx: the file is missing"


def test_a_folder_in_a_files_place_is_a_missing_file(folder: Path) -> None:
    """Guards against reading what is no file."""
    (folder / "unet.onnx").unlink()
    (folder / "unet.onnx").mkdir()
    assert fails(folder) == "files.unet.onnx: the file is missing"


def test_a_file_of_another_size_is_named(folder: Path) -> None:
    """Guards a truncated download, found before anything is hashed."""
    (folder / "unet.onnx").write_bytes(b"content")
    assert fails(folder) == "files.unet.onnx: 7 bytes, expected 20"


def test_a_file_of_another_content_is_named(folder: Path) -> None:
    """Guards a flipped bit, and a file of another export."""
    (folder / "unet.onnx").write_bytes(b"CONTENT of unet.onnx")
    assert fails(folder) == "files.unet.onnx: sha256 differs from the manifest's; the file is damaged"


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "tokenizer/../../outside.onnx", "link.onnx"])
def test_a_path_that_leads_outside_is_refused(folder: Path, name: str) -> None:
    """Guards the server's files against a manifest that was not written by our exporter."""
    (folder.parent / "outside.onnx").write_bytes(b"secret")
    (folder / "link.onnx").symlink_to(folder.parent / "outside.onnx")
    document = json.loads((folder / "bundle.json").read_text())
    document["files"][name] = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    (folder / "bundle.json").write_text(json.dumps(document))
    assert fails(folder) == f"files.{name}: outside the bundle"


def test_what_the_exporter_writes_loads(real: Real) -> None:
    """Guards the fake manifest of these tests against drifting from the real ones."""
    assert set(parse_bundle(manifest()).parameters) == set(real.bundle.parameters)
    assert open_bundle(real.folder) == real.bundle


def test_files_are_hashed_once_for_a_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the start of a large model: gesso-serve hashes and passes the seal on, so that the model need not. A
    manifest that has changed since is another one, and its files are hashed."""
    hashed: list[str] = []
    check_file = manifests._check_file

    def counted(where: Path, name: str, spec: Any) -> None:
        hashed.append(name)
        check_file(where, name, spec)

    monkeypatch.setattr(manifests, "_check_file", counted)
    bundle = open_bundle(folder)
    assert sorted(hashed) == sorted(bundle.files)
    seal = manifests.seal(folder)
    hashed.clear()
    assert open_bundle(folder, verified=seal) == bundle
    assert hashed == []
    document = json.loads((folder / "bundle.json").read_text()) | {"name": "renamed"}
    (folder / "bundle.json").write_text(json.dumps(document))
    open_bundle(folder, verified=seal)
    assert sorted(hashed) == sorted(bundle.files)
