"""Bundles that somebody wrote to do harm, with a manifest to match: one line, before anything is served."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.fakes import manifest, tokenizer_json, write_bundle
from backend.real import Real
from backend.test_bundle import put
from gesso_backend.errors import BundleError
from gesso_backend.kinds import open_bundle, parse_bundle
from gesso_backend.kinds.diffusion import tokenizer_file
from gesso_backend.model import external

Document = dict[str, Any]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


FAULTS: dict[str, tuple[Callable[[Document], None], str]] = {
    "a VAE's factor of 0": (put("vae.factor", 0), "vae.factor: 0 is not from 1 to 64"),
    "a negative factor": (put("vae.factor", -8), "vae.factor: -8 is not from 1 to 64"),
    "a scale of NaN": (put("vae.scaling_factor", float("nan")), "vae.scaling_factor: nan is no finite number"),
    "a scale of 0": (put("vae.scaling_factor", 0.0), "vae.scaling_factor: 0.0 is not from 1e-06 to 1e+06"),
    "an endless shift": (put("vae.shift_factor", float("inf")), "vae.shift_factor: inf is no finite number"),
    "a text of 10^9 tokens": (
        put("tokenizers.text_encoder.max_length", 10**9),
        "tokenizers.text_encoder.max_length: 1000000000 is not from 3 to 4096",
    ),
    "another length than the network's": (
        put("tokenizers.text_encoder.max_length", 9),
        "tokenizers.text_encoder.max_length: 9 is not the network's 8",
    ),
    "a negative token": (put("tokenizers.text_encoder.pad_token_id", -1), "tokenizers.text_encoder.pad_token_id: -1"),
    "10^6 vectors": (put("tokenizers.text_encoder.embeddings", {"x": 10**6}), "tokenizers.text_encoder.embeddings.x"),
    "no multiple": (put("size.multiple", 0), "size.multiple: 0 is not from 1 to 4096"),
    "a multiple that the VAE is not": (put("size.multiple", 12), "size: "),
    "more pixels than there are": (put("size.max_pixels", 10**12), "size.max_pixels: 1000000000000 is not"),
    "more than 64 bits": (put("size.max_pixels", 10**4000), "size.max_pixels: "),
    "a file of less than nothing": (put("files.unet.onnx", None), "files.unet.onnx: expected an object"),
    "NaN where anything goes": (put("options", {"a": [{"b": float("nan")}]}), "options.a.0.b: nan is no finite number"),
    "too deep": (put("options", {"a": nested(20)}), "options.a.0.0.0"),
    "a colour of 2": (put("preview_rgb.bias", [0.0, 1.0]), "preview_rgb: 2 numbers for 3 colours"),
    "no steps end": (put("parameters.num_inference_steps.maximum", 10**9), "parameters.num_inference_steps.maximum"),
    "no upper bound": (put("parameters.eta.maximum", None), "parameters.eta: needs a minimum and a maximum"),
    "a bound left out": (lambda d: d["parameters"]["eta"].pop("maximum"), "parameters.eta: needs a minimum and a"),
    "bounds the wrong way": (put("parameters.eta.minimum", 2.0), "parameters.eta: needs a minimum and a max"),
    "a default out of bounds": (put("parameters.eta.default", 7.0), "parameters.eta.default: 7.0 is not from 0.0 to"),
    "a default of another type": (put("parameters.eta.default", "x"), "parameters.eta.default: 'x' is not from"),
    "a prompt without end": (lambda d: d["parameters"]["prompt"].pop("max_bytes"), "parameters.prompt.max_bytes: None"),
    "a list without end": (put("parameters.sigmas.max_items", 10**9), "parameters.sigmas.max_items: 1000000000"),
    "a default that is no choice": (put("parameters.scheduler.default", "x"), "parameters.scheduler.default: 'x' is"),
    "another type": (put("parameters.eta", {"type": "string", "max_bytes": 9}), "parameters.eta.type: 'string' is not"),
    "10^9 training steps": (put("scheduler.config.num_train_timesteps", 10**9), "scheduler.config.num_train_timesteps"),
    "no training steps": (put("scheduler.config.num_train_timesteps", 0), "scheduler.config: 'ddim' cannot be planned"),
    "betas beyond sense": (put("scheduler.config.beta_end", "x"), "scheduler.config: 'ddim' cannot be planned with it"),
    "an output of another name": (
        lambda d: d["networks"]["vae_decoder"].update(outputs={}),
        "networks.vae_decoder.outputs: expected 'image' with four axes",
    ),
    "an input without axes": (put("networks.unet.inputs.sample.shape", []), "networks.unet.inputs: expected 'sample'"),
    "a negative axis": (put("networks.unet.inputs.sample.shape", ["batch", -9, "height", "width"]), "networks.unet."),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_number_out_of_bounds_names_its_key(fault: str) -> None:
    """Guards a server that starts with such numbers, and then divides by zero or never ends (F7)."""
    change, message = FAULTS[fault]
    document = manifest()
    if fault == "a file of less than nothing":
        document["files"]["unet.onnx"] = None
    else:
        change(document)
    with pytest.raises(BundleError) as caught:
        parse_bundle(document)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def replace(folder: Path, name: str, content: bytes) -> None:
    """A file of other content, and a manifest to match."""
    (folder / name).write_bytes(content)
    document = json.loads((folder / "bundle.json").read_text())
    document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "bundle.json").write_text(json.dumps(document))


def fails(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["bundle.json", "unet.onnx", "tokenizer/tokenizer.json"])
def test_a_fifo_in_a_files_place_is_refused(folder: Path, name: str) -> None:
    """Guards a start that waits for ever for somebody to write into it."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert fails(folder).endswith("is not a regular file")


def test_names_that_are_no_names_are_refused(folder: Path) -> None:
    """Guards against a traceback of the file system."""
    document = json.loads((folder / "bundle.json").read_text())
    for name in ("a\0b", "x" * 5000):
        (folder / "bundle.json").write_text(
            json.dumps({**document, "files": {name: {"sha256": "0" * 64, "bytes": 1}, **document["files"]}})
        )
        assert fails(folder).startswith("files.")
    (folder / "loop").symlink_to(folder / "loop")
    files = {"loop": {"sha256": "0" * 64, "bytes": 1}, **document["files"]}
    (folder / "bundle.json").write_text(json.dumps({**document, "files": files}))
    assert fails(folder).startswith("files.")


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_a_manifest_of_brackets_is_refused(folder: Path, depth: int) -> None:
    """Guards against a RecursionError, and against a process that JSON ends."""
    (folder / "bundle.json").write_text(f'{{"options": {"[" * depth}{"]" * depth}}}')
    assert "deep" in fails(folder)


def field(number: int, content: bytes) -> bytes:
    """Of a protobuf message."""
    length, size = len(content), b""
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def test_weights_outside_the_hashed_files_are_refused(folder: Path) -> None:
    """Guards weights that can be changed without a hash that tells: a graph may leave them in any file."""
    entry = field(13, field(1, b"location") + field(2, b"unet.onnx.data"))
    replace(folder, "unet.onnx", field(7, field(5, entry)))
    assert fails(folder) == "files.unet.onnx: its weights are in 'unet.onnx.data', which is not in files"
    replace(folder, "unet.onnx.data", b"weights")
    open_bundle(folder)
    nested_graph = field(7, field(1, field(5, field(6, field(5, entry)))))  # in a node's subgraph
    replace(folder, "unet.onnx", nested_graph.replace(b"unet.onnx.data", b"../weights.dat"))
    assert "'../weights.dat', which is not in files" in fails(folder)


@pytest.mark.parametrize("content", [b"\xff" * 40, b"\x3a\x7f", b"\x3b", b"\x3a" + b"\x80" * 12])
def test_what_is_no_onnx_is_refused(folder: Path, content: bytes) -> None:
    """Guards the reader of the protobuf's bytes."""
    replace(folder, "unet.onnx", content)
    assert fails(folder).startswith("files.unet.onnx: is no ONNX file")


def test_where_weights_are_is_read_as_onnx_reads_it(real: Real) -> None:
    """Guards the field numbers: every graph that the exporter writes has its weights in one file beside it."""
    import onnx

    for name in [name for name in real.bundle.files if name.endswith(".onnx")]:
        model = onnx.load(real.folder / name, load_external_data=False)
        tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
        expected = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
        assert expected
        assert external.locations(real.folder / name) == expected


# tokenizer.json


def charsmap(*replacements: bytes) -> str:
    return base64.b64encode(bytes(4) + b"\0".join([*replacements, b""])).decode()


def regex(pattern: str, content: str = " ") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


TOKENIZERS: dict[str, str] = {
    "a normaliser that multiplies": tokenizer_json(normalizer=regex("a", "aa" * 1000)),
    "one in front": tokenizer_json(normalizer={"type": "Prepend", "prepend": "x" * 10**6}),
    "one in a sequence": tokenizer_json(
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "x"}]}
    ),
    "a sequence in a sequence": tokenizer_json(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}
    ),
    "a table that multiplies": tokenizer_json(
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 1000)}
    ),
    "a pattern that holds up": tokenizer_json(normalizer=regex("(a+)+b")),
    "another one": tokenizer_json(normalizer=regex("a*a*a*a*b")),
    "one for cutting": tokenizer_json(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(x|xx)*y"}, "behavior": "Removed", "invert": True}
    ),
    "a step of another kind": tokenizer_json(pre_tokenizer={"type": "UnicodeScripts"}),
    "dropout": tokenizer_json(model={"type": "BPE", "dropout": 0.5, "vocab": {}, "merges": []}),
    "no model": tokenizer_json(model={"type": "Markov"}),
    "no object": "[]",
    "no JSON": "{",
    "brackets": "[" * 100_000,
    "few tokens": tokenizer_json(model={"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_we_would_not_write_is_refused(folder: Path, case: str) -> None:
    """Guards the preparing thread: a normaliser that multiplies text made gigabytes of a prompt (F7)."""
    replace(folder, "tokenizer/tokenizer.json", TOKENIZERS[case].encode())
    assert fails(folder).startswith("tokenizer")


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
PADDING = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
PADDING |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "?"}


@pytest.mark.parametrize(
    "document",
    [
        tokenizer_json(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"ab", "ﷺ".encode() * 3)}),
        tokenizer_json(normalizer=regex(" {2,}", "▁")),
        tokenizer_json(pre_tokenizer=METASPACE),
        tokenizer_json(padding=PADDING),
    ],
)  # fmt: skip
def test_what_clip_and_t5_have_is_taken(tmp_path: Path, document: str) -> None:
    """Guards real tokenizers against the rule; and padding is the manifest's, not this file's."""
    (tmp_path / "tokenizer.json").write_text(document)
    if "Precompiled" in document:
        tokenizer_file._check(json.loads(document))  # a trie of nothing is none for the library
    else:
        assert len(tokenizer_file.load(tmp_path / "tokenizer.json").encode("a").ids) == 1
