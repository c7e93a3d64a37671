"""tokenizer.json read by the `tokenizers` library alone, against transformers' tokenizer on the checkpoint."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

AWKWARD = [
    "", " ", "\t\n\r\n", "   leading and trailing   ", "a\u00a0b\u2003c\u200bd", "\x00\x01\x1f\x7f", "\ufeffbom",
    "naïve café", unicodedata.normalize("NFD", "naïve café"), "İstanbul ß ẞ ﬁ ﬀ ǅ", "ΑΣ ας", "Ωμέγα",
    "日本語の長い文", "中文，标点。", "한국어", "العربية من اليمين", "שלום עולם", "हिन्दी नमस्ते", "ไทยไม่มีช่องว่าง",
    "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "e\u0301\u0301\u0301", "z̷̢̛a̸l̵g̶o̷", "\u202eright to left override",
    "don't can't I'll we've he'd she's they're I'm", "DON'T I'LL", "rock'n'roll", "it''s", "'s 't 're",
    "l’été “quotes”",
    "3.14159", "1234567890", "½ ² Ⅷ ٣", "$1,000.00", "50%", "2024-01-31T12:00:00Z", "C++ C# .NET", "a_b-c.d/e\\f",
    "<b>bold</b> &amp; &lt;i&gt;", "<script>alert('x')</script>", "{\"json\": [1, 2]}", "(((masterpiece:1.3)))",
    "<|endoftext|>", "a <|endoftext|> b", "<|startoftext|>x<|endoftext|>", "<|ENDOFTEXT|>", "<|endoftext", "</w>",
    "!", "!!!", "wow!", "! leading", "<unk>", "[PAD]", "https://example.com/?q=a%20b#c", "user@example.com",
    "A" * 500, "word " * 300, "supercalifragilisticexpialidocious", "...---...", "~`@#$%^&*()_+-=", "\\n \\t \\u0041",
    "\ud7ff\ue000", "\U0001f600\U0010ffff", "tab\tnew\nline", "ﷺ", "㎏㍿", "ｆｕｌｌｗｉｄｔｈ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\u0308 combining first",
]  # fmt: skip


def strings() -> list[str]:
    """A thousand: the list above, pairs of it, and random characters from all of Unicode."""
    rng = random.Random(0)
    texts = list(AWKWARD)
    while len(texts) < 600:
        texts.append(rng.choice(["", " ", "  ", "\n", ","]).join(rng.choices(AWKWARD, k=rng.randint(2, 4))))
    while len(texts) < 1000:
        blocks = [(0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x400, 0x600), (0x2000, 0x2100), (0x20, 0x10FFFF)]
        codes = [rng.randrange(*rng.choice(blocks)) for _ in range(rng.randint(1, 40))]
        texts.append("".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000))  # no lone surrogates
    return texts


@pytest.mark.parametrize("kind", ["exported", "other"])
def test_tokenizer_json_equals_transformers_on_a_thousand_awkward_strings(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """A hand-made tokenizer is right on English alone; that of "other" is padded with "!", which changes words."""
    checkpoint, bundle = request.getfixturevalue(kind)
    theirs = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    ours = Tokenizer.from_file(str(bundle / "tokenizer/tokenizer.json"))
    texts = strings()
    assert len(texts) == 1000
    expected = theirs(texts, truncation=False, padding=False, verbose=False).input_ids
    for text, ids in zip(texts, expected, strict=True):
        assert ours.encode(text).ids == ids, repr(text)


def test_tokens_are_those_of_openais_clip(bundle: Path) -> None:
    """Both sides of the test above read our vocabulary file; these ids are from OpenAI's repository."""
    ours = Tokenizer.from_file(str(bundle / "tokenizer/tokenizer.json"))
    assert ours.encode("a photo of a cat").ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ours.get_vocab_size() == 49408


@pytest.mark.parametrize(("kind", "pad"), [("exported", 49407), ("other", 0)])
def test_manifest_tells_the_limits_and_the_file_stores_none(
    kind: str, pad: int, request: pytest.FixtureRequest
) -> None:
    """The backend reports what it cut, so the tokenizer must not have cut it already."""
    _, bundle = request.getfixturevalue(kind)
    spec = json.loads((bundle / "bundle.json").read_text())["tokenizers"]["text_encoder"]
    assert spec == {
        "file": "tokenizer/tokenizer.json",
        "max_length": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": pad,
    }
    stored = json.loads((bundle / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    assert stored["truncation"] is None
    assert stored["padding"] is None
    assert len(Tokenizer.from_file(str(bundle / spec["file"])).encode("word " * 300).ids) == 302
