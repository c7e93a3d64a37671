"""CLIP's tokenizer, for checkpoints that come without one: OpenAI's byte-pair merges (MIT, see clip_merges.LICENSE)."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Token ids and merge rules: bytes, bytes that end a word, merges, two specials."""
    packed = files("gesso_export.checkpoint").joinpath("clip_merges.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").splitlines()
    alphabet = _byte_alphabet()
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + [merge.replace(" ", "") for merge in merges]
    return {token: index for index, token in enumerate([*tokens, BOS, EOS])}, merges


def write_tokenizer(folder: Path, pad_token: str = EOS) -> None:
    """The four files of a published tokenizer folder (vocab and merges; no tokenizer.json, as SD 1.5 has none)."""
    ids, merges = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": pad_token, "unk_token": EOS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    config = {**special, "do_lower_case": True, "model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _byte_alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes, in the order of GPT-2's `bytes_to_unicode`."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in [*printable, *range(256, 256 + others)]]
