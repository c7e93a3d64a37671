"""tokenizer.json, held against what gesso-export writes before the `tokenizers` library is given it.

The file is a small program: it can rewrite a text before it is cut into tokens, and patterns run on what a client sent.
So only steps are taken that a text cannot grow by, and patterns that no text can hold up.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from gesso_backend.errors import BundleError

MAX_BYTES = 2**26  # T5's is 2.4 MB
MAX_STEPS = 8  # of normalising, and of cutting
MAX_PATTERN = 400  # characters
MAX_REPLACEMENT = 64  # bytes that a table may make of a character; NFKC's longest, U+FDFA, has 33

# Step -> what it may say of itself.
NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Replace", "Precompiled")
PRE_TOKENIZERS = ("Split", "ByteLevel", "WhitespaceSplit", "Whitespace", "Metaspace", "Punctuation", "Digits")
MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def load(path: Path) -> Tokenizer:
    """The tokenizer in a file. Raises BundleError, naming the file, for one that gesso-export would not write."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        _check(json.loads(text))
        tokenizer = Tokenizer.from_str(text)
    except BundleError:
        raise
    except Exception as error:  # tokenizers raises Exception itself; JSON that is too deep a RecursionError
        raise BundleError(f"{path.name}: {str(error)[:200]}") from None
    tokenizer.no_padding()  # lengths are the manifest's
    tokenizer.no_truncation()
    return tokenizer


def _check(document: Any) -> None:
    """Raises ValueError, or what reading something else raises."""
    normalizers = _steps(document.get("normalizer"), "normalizers", NORMALIZERS, "normalizer")
    if sum(step["type"] == "Precompiled" for step in normalizers) > 1:
        raise ValueError("normalizer: more than one table")
    for step in normalizers:
        if step["type"] == "Replace":
            _check_pattern(step["pattern"], "normalizer")
            if len(step["content"]) > 1:
                raise ValueError(
                    f"normalizer: a replacement of {len(step['content'])} characters would make texts grow"
                )
        if step["type"] == "Precompiled":
            _check_table(step["precompiled_charsmap"])
    for step in _steps(document.get("pre_tokenizer"), "pretokenizers", PRE_TOKENIZERS, "pre_tokenizer"):
        if step["type"] == "Split":
            _check_pattern(step["pattern"], "pre_tokenizer")
        if step["type"] == "Metaspace" and len(step["replacement"]) > 1:
            raise ValueError("pre_tokenizer: a replacement of more than one character")
    model = document["model"]
    if model["type"] not in MODELS:
        raise ValueError(f"model: {str(model['type'])[:40]!r} is not one of {', '.join(MODELS)}")
    if model.get("dropout"):
        raise ValueError("model: dropout would make the same prompt another one each time")


def _steps(step: Any, inner: str, known: tuple[str, ...], name: str) -> list[dict[str, Any]]:
    """A step, or those of a sequence of them."""
    steps = [] if step is None else step[inner] if step["type"] == "Sequence" else [step]
    if len(steps) > MAX_STEPS:
        raise ValueError(f"{name}: more than {MAX_STEPS} steps")
    for each in steps:
        if each["type"] not in known:
            raise ValueError(f"{name}: {str(each['type'])[:40]!r} is not one of {', '.join(known)}")
    return list(steps)


def _check_pattern(pattern: dict[str, str], name: str) -> None:
    """A pattern that takes linear time: no groups, and in each alternative one repetition at most."""
    if "String" in pattern:
        return
    text = pattern["Regex"]
    bare = re.sub(r"\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]", "x", re.sub(r"\\[pP]\{[^}]*\}", "x", text))
    if len(text) > MAX_PATTERN or "(" in bare or any(len(re.findall(r"[*+?{]", part)) > 1 for part in bare.split("|")):
        raise ValueError(f"{name}: {text[:60]!r} is a pattern that a text could hold up")


def _check_table(table: str) -> None:
    """SentencePiece's map of characters: the size of its trie, the trie, and the replacements, each ended by a 0."""
    raw = base64.b64decode(table)
    replacements = raw[4 + int.from_bytes(raw[:4], "little") :]
    longest = max(map(len, replacements.split(b"\0")))
    if longest > MAX_REPLACEMENT:
        raise ValueError(f"normalizer: a replacement of {longest} bytes would make texts grow")
