"""The tokenizer of the small world, as transformers reads its files and as the exporter writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from gesso_export.checkpoint import tokenizer as exporter
from gesso_export.checkpoint.checkpoint import Component
from training.scenes import COLOURS, KINDS
from training.scenes.captions import PLACE_WORDS, TIME_WORDS, with_thing, without_thing
from training.tokens import MAX_TOKENS, Vocabulary, learn, reader

ANY_TEXT = [
    "",
    " ",
    "naïve café",
    "日本語",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "a RED balloon!!",
    "\u202eleft",
    "don't",
    "3.14 < 4",
    "word " * 200,
]


@pytest.fixture(scope="module")
def captions() -> list[str]:
    rng = np.random.default_rng(0)
    said = [
        caption
        for place in PLACE_WORDS
        for time in TIME_WORDS
        for kind in KINDS
        for colour in COLOURS
        for caption in (with_thing(rng, kind, colour, place, time), without_thing(rng, place, time))
    ]
    return sorted(set(said))


@pytest.fixture(scope="module")
def vocabulary(captions: list[str]) -> Vocabulary:
    return learn(captions)


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokenizer"
    vocabulary.write(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> CLIPTokenizer:
    return reader(folder)


def test_every_word_of_a_caption_is_one_token(captions: list[str], tokenizer: CLIPTokenizer) -> None:
    """Guards the smallness of the text encoder: it need not learn to spell."""
    words = {word for caption in captions for word in caption.replace(",", "").split()}
    assert len(words) > 40
    assert {word: len(tokenizer(word).input_ids) for word in words} == dict.fromkeys(words, 3)  # begin, word, end


def test_any_text_has_tokens_of_its_own(vocabulary: Vocabulary, tokenizer: CLIPTokenizer) -> None:
    """Guards prompts in words that the world does not know: bytes at worst, and nothing silently dropped."""
    for text in ANY_TEXT:
        ids = tokenizer(text, verbose=False).input_ids
        assert (ids[0], ids[-1]) == (vocabulary.bos, vocabulary.eos)
        assert vocabulary.eos not in ids[1:-1]  # which stands for "unknown" too
        assert (len(ids) > 2) == bool(text.strip())
        assert max(ids) < len(vocabulary.ids)


def test_ids_are_dense(vocabulary: Vocabulary) -> None:
    """Guards the embedding table: a row for every id, and none that no id points to."""
    assert sorted(vocabulary.ids.values()) == list(range(len(vocabulary.ids)))


def test_learning_again_gives_the_same_vocabulary(captions: list[str], vocabulary: Vocabulary) -> None:
    assert learn(captions) == vocabulary


def test_the_exported_file_reads_as_transformers_does(
    captions: list[str], folder: Path, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    """Guards the served words against being others than the trained ones."""
    component = Component("tokenizer", "transformers", "CLIPTokenizer", folder)
    spec = exporter.write(exporter.TokenizerSource(component, MAX_TOKENS, len(tokenizer)), tmp_path)
    exported = Tokenizer.from_file(str(tmp_path / spec.file))
    for text in [*captions, *ANY_TEXT]:
        assert exported.encode(text).ids == tokenizer(text, verbose=False).input_ids, repr(text)
