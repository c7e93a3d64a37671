"""The tokenizer of a checkpoint as one tokenizer.json that the `tokenizers` library reads by itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso_export.bundle.manifest import TokenizerSpec
from gesso_export.checkpoint.bounds import short
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.embeddings import LEGACY_EOS as LEGACY_END
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.checkpoint.strict import TABLE_BYTES, check_regular, read_json, read_text
from gesso_export.errors import CheckpointError, first_line

FILE = "tokenizer.json"
# What a tokenizer's words may be in: any one of these sets of files.
_VOCABULARIES = {"CLIP": ((FILE,), ("vocab.json", "merges.txt")), "T5": ((FILE,), ("spiece.model",))}
_OTHERS = ("special_tokens_map.json", "added_tokens.json")
_CONFIG = "tokenizer_config.json"
# The keys of its config that say how words become tokens.
_KEYS = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "additional_special_tokens",
    "extra_special_tokens",
    "added_tokens_decoder",
    "model_max_length",
    "do_lower_case",
    "add_prefix_space",
    "extra_ids",
    "legacy",
    "tokenizer_class",
)
_PADDING = 256  # rows that a table may have beyond the vocabulary, for its size to be a round number
_PROBES = ("a photo of a cat", "two red houses", "0 1 2", "blue")
_LETTERS = 512  # tokens of CLIP that no merge makes: bytes, and bytes that end a word
_LONGEST = 16  # characters that a normaliser may put in place of one
_CHARACTERS = "precompiled_charsmap"  # T5's table of them


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer and what it is to become."""

    component: Component
    max_length: int  # tokens of a text
    vocabulary: int  # rows of the text encoder's token table, without embeddings
    embeddings: tuple[Embedding, ...] = ()
    end: int | None = None  # the token that ends a text, as the text encoder's config has it


def write(source: TokenizerSource, bundle: Path) -> TokenizerSpec:
    """Write `<component>/tokenizer.json` into the bundle, with the tokens of the embeddings after the vocabulary's.

    Encoding with it adds the tokens of begin and end and neither truncates nor pads: the backend does, by the
    manifest's `max_length` and `pad_token_id`, because it reports what it cut.
    """
    tokenizer = load(source)
    _add(tokenizer, source.vocabulary, source.embeddings)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    file = f"{source.component.name}/{FILE}"
    path = bundle / file
    path.parent.mkdir()
    path.write_text(backend.to_str(), encoding="utf-8")
    vectors = {embedding.token: len(embedding.vectors) for embedding in source.embeddings} or None
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return TokenizerSpec(file, source.max_length, *ends, embeddings=vectors)


def load(source: TokenizerSource) -> Any:
    """The tokenizer as transformers reads it, held against the text encoder's token table.

    Raises CheckpointError for half a download: without its vocabulary, every word is the same token.
    """
    name, tokenizer = source.component.name, _open(source.component)
    try:
        _check(source, tokenizer)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except Exception as error:  # of a tokenizer that was read, but does not work
        raise CheckpointError(f"{name} cannot be used: {first_line(error)}") from error
    return tokenizer


def _check(source: TokenizerSource, tokenizer: Any) -> None:
    rows, known = source.vocabulary, len(tokenizer)
    if not rows - _PADDING <= known <= rows or max(tokenizer.get_vocab().values()) >= rows:
        raise CheckpointError(f"has {known} tokens, but the text encoder's table {rows} rows: not of one model")
    if len(set(tokenizer.get_vocab().values())) < len(tokenizer.get_vocab()):
        raise CheckpointError("two tokens have the same number; is its vocabulary damaged?")
    for end in ("eos_token_id", "pad_token_id"):
        if getattr(tokenizer, end) is None:
            raise CheckpointError(f"has no {end.removesuffix('_id')}")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    _check_merges(state)
    _check_rules(state)
    words = [tokenizer.backend_tokenizer.encode(word, add_special_tokens=False).ids for word in _PROBES]
    if any(set(ids) <= {tokenizer.unk_token_id} for ids in words) or len(set(map(tuple, words))) < len(words):
        raise CheckpointError("different words become the same tokens; is its vocabulary whole?")
    end = tokenizer.eos_token_id
    if source.end is not None and end != source.end and (source.end != LEGACY_END or end != _last(state)):
        raise CheckpointError(f"a text ends with token {end}, but the text encoder's config says {source.end}")


def _last(state: Mapping[str, Any]) -> int:
    """The highest token, by which published text encoders find the end of a text."""
    return int(max(state["model"]["vocab"].values()))


def _check_merges(state: Mapping[str, Any]) -> None:
    """Raises CheckpointError when tokens of a byte-pair vocabulary can never be made: the merges are of another one."""
    model = state["model"]
    if model.get("type") != "BPE":
        return
    added = {token["content"] for token in state.get("added_tokens") or []}
    made = {"".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in model["merges"]}
    unmade = len(model["vocab"].keys() - made - added) - _LETTERS
    if unmade > 0:
        raise CheckpointError(f"no merge makes {unmade} of its {len(model['vocab'])} tokens; is merges.txt whole?")


def _check_rules(state: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a normaliser that makes a long text of a short one."""
    for key, text in _texts(state.get("normalizer"), ""):
        if key in ("content", "prepend") and len(text) > _LONGEST:
            raise CheckpointError(f"its normaliser writes {short(text)}, longer than any word")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _texts(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str) and key != _CHARACTERS:
        yield key, value


def _open(component: Component) -> Any:
    """Of the files that make a tokenizer, as plain UTF-8, and of nothing else in the folder."""
    import transformers

    family = "T5" if component.class_name.startswith("T5") else "CLIP"
    kind = transformers.T5Tokenizer if family == "T5" else transformers.CLIPTokenizer
    sets, config = _VOCABULARIES[family], component.config()
    present = next((files for files in sets if all((component.folder / file).exists() for file in files)), None)
    if present is None:
        wanted = " or ".join(" and ".join(files) for files in reversed(sets))
        raise CheckpointError(f"{component.name}: has no vocabulary: {wanted} (half a download?)")
    every = {file for files in sets for file in files if (component.folder / file).exists()}
    with tempfile.TemporaryDirectory() as folder:
        for file in (*every, *_OTHERS):
            path = component.folder / file
            if not path.exists():
                continue
            if file.endswith(".model"):
                check_regular(path)
                (Path(folder) / file).symlink_to(path.resolve())
            else:
                (Path(folder) / file).write_text(read_text(path, TABLE_BYTES), encoding="utf-8")
        settings = {key: config[key] for key in _KEYS if key in config}
        for words in (settings, _words(Path(folder) / _OTHERS[0])):
            _check_words(component, words)
        (Path(folder) / _CONFIG).write_text(json.dumps(settings), encoding="utf-8")
        try:
            return kind.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the tokenizers library raises nothing narrower
            why = first_line(error).replace(folder, component.name)
            raise CheckpointError(f"{component.name} cannot be loaded: {why}") from error


def _words(file: Path) -> Mapping[str, Any]:
    return read_json(file.parent, file.name) if file.exists() else {}


def _check_words(component: Component, words: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a special token that is no text."""
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        word = words.get(key)
        text = word.get("content") if isinstance(word, dict) else word
        if word is not None and not (isinstance(text, str) and text):
            raise CheckpointError(f"{component.name}: {key} is {short(word)}, which is no token")


def _add(tokenizer: Any, vocabulary: int, embeddings: Sequence[Embedding]) -> None:
    """Give each vector the id of its row in the text encoder's table."""
    if not embeddings:
        return
    if len(tokenizer) != vocabulary:
        raise CheckpointError(f"tokenizer: has {len(tokenizer)} tokens, the text encoder {vocabulary}; no room to add")
    known = tokenizer.get_vocab()
    for embedding in embeddings:
        for token in embedding.tokens:
            if token in known:
                raise CheckpointError(f"embedding {embedding.token}: the tokenizer knows {token} already")
        tokenizer.add_tokens(embedding.tokens)
