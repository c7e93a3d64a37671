"""CLIP's kind of tokenizer with a vocabulary of this world's words: byte-level BPE, so that any text has tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
MAX_TOKENS = 77
MERGES = 600


@dataclass(frozen=True)
class Vocabulary:
    ids: dict[str, int]
    merges: tuple[str, ...]

    @property
    def bos(self) -> int:
        return self.ids[BOS]

    @property
    def eos(self) -> int:
        return self.ids[EOS]

    def write(self, folder: Path) -> None:
        """The files of a published tokenizer folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(self.ids, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(self.merges) + "\n", encoding="utf-8")
        special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
        config = {**special, "do_lower_case": True, "model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def learn(captions: Iterable[str]) -> Vocabulary:
    """The vocabulary of the captions: each of their words is one token."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + MERGES,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    merges = tuple(a + " " + b for a, b in json.loads(tokenizer.to_str())["model"]["merges"])
    tokens = [*alphabet, *(letter + END_OF_WORD for letter in alphabet), *(merge.replace(" ", "") for merge in merges)]
    return Vocabulary({token: i for i, token in enumerate([*dict.fromkeys(tokens), BOS, EOS])}, merges)


def reader(folder: Path) -> CLIPTokenizer:
    """The tokenizer as users load it."""
    return CLIPTokenizer.from_pretrained(folder)
