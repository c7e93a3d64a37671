"""Textual inversions: what the exporter adds is what a prompt at the server means, and what diffusers makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

import bundles
from gesso_backend.kinds.diffusion.bundle import TokenizerSpec
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer
from gesso_export import families
from gesso_export.checkpoint import tokenizer
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.checkpoint.embeddings import Embedding, read
from gesso_export.errors import CheckpointError

PROMPT = "a photo of <cat-toy>, (red:1.2) and <style> too"


@pytest.fixture(scope="module")
def checkpoint(gesso_bundles: Path) -> Path:
    return bundles.checkpoint(gesso_bundles, in_channels=4)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One as diffusers writes it, of three vectors, and one as the web UI does."""
    random = torch.Generator().manual_seed(0)
    toy, style = tmp_path / "toy.safetensors", tmp_path / "style.safetensors"
    save_file({"<cat-toy>": torch.randn(3, 32, generator=random)}, toy)
    save_file({"emb_params": torch.randn(1, 32, generator=random), "other": torch.zeros(2)}, style)
    return {"<cat-toy>": toy, "<style>": style}


def test_a_prompt_with_embeddings_means_what_it_means_in_diffusers(
    checkpoint: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """Guards ids, rows and the order of the vectors, across exporter, bundle and server."""
    inversions = [read(f"{token}={file}") for token, file in files.items()]
    model = families.describe(open_checkpoint(checkpoint, "tiny"), inversions)
    spec = tokenizer.write(model.tokenizers["text_encoder"], tmp_path)
    assert spec.embeddings == {"<cat-toy>": 3, "<style>": 1}
    served = PromptTokenizer(
        tmp_path,
        TokenizerSpec(
            spec.file, spec.max_length, spec.bos_token_id, spec.eos_token_id, spec.pad_token_id, spec.embeddings
        ),
    )
    ids = served.encode([(PROMPT, 1.0)]).ids
    with torch.inference_mode():
        ours = model.networks[0].load()(torch.from_numpy(ids), torch.zeros(1, dtype=torch.int64))

    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipeline.load_textual_inversion(str(files["<cat-toy>"]), token="<cat-toy>")
    pipeline.load_textual_inversion(read_tensor(files["<style>"]), token="<style>")
    with torch.inference_mode():
        theirs, _ = pipeline.encode_prompt(PROMPT, torch.device("cpu"), 1, do_classifier_free_guidance=False)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)
    plain = served.encode([("a photo of cat toy, (red:1.2) and style too", 1.0)]).ids
    assert (ids != plain).any()


def read_tensor(file: Path) -> dict[str, torch.Tensor]:
    embedding: Embedding = read(f"x={file}")
    return {"<style>": torch.from_numpy(embedding.vectors)}


def test_what_is_no_embedding_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Guards against pickles, and against vectors of another text encoder, which torch would stretch to nonsense."""
    wide, two, nan = tmp_path / "wide.safetensors", tmp_path / "two.safetensors", tmp_path / "nan.safetensors"
    save_file({"x": torch.zeros(1, 48)}, wide)
    save_file({"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 48)}, two)
    uneven, four = tmp_path / "uneven.safetensors", tmp_path / "four.safetensors"
    save_file({"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(2, 48)}, uneven)
    save_file({"clip_l": torch.zeros(1, 32), "t5xxl": torch.zeros(1, 48)}, four)
    save_file({"x": torch.full((1, 32), torch.nan)}, nan)
    for argument, message in {
        "toy": "TOKEN=FILE",
        "a toy=file.safetensors": "TOKEN=FILE",
        "toy=file.pt": "pickles are never read",
        f"toy={tmp_path}/none.safetensors": "cannot be read",
        f"toy={four}": "expected one tensor, or clip_l and clip_g; found clip_l, t5xxl",
        f"toy={uneven}": "has 1 vectors in clip_l and 2 in clip_g",
        f"toy={nan}": "NaN",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read(argument)
    opened = open_checkpoint(checkpoint, "tiny")
    with pytest.raises(CheckpointError, match="embedding toy: is 48 wide, the text encoder 32"):
        families.describe(opened, [read(f"toy={wide}")])
    with pytest.raises(CheckpointError, match=r"embedding toy: is of SDXL \(clip_l and clip_g\)"):
        families.describe(opened, [read(f"toy={two}")])
    inversion = Embedding("toy", np.zeros((1, 32), np.float32))
    with pytest.raises(CheckpointError, match="embedding toy: the token comes twice"):
        families.describe(opened, [inversion, inversion])
    model = families.describe(opened, [Embedding("cat</w>", np.zeros((1, 32), np.float32))])
    with pytest.raises(CheckpointError, match="the tokenizer knows cat</w> already"):
        tokenizer.write(model.tokenizers["text_encoder"], tmp_path)


def test_an_embedding_of_sdxl_is_one_of_both_its_text_encoders(gesso_bundles: Path, tmp_path: Path) -> None:
    """Guards which vectors go where; and the pooled prompt, which must stay that of its end.

    New tokens have the highest ids, and transformers, with the published config, takes the highest for the end; so
    diffusers has to be told where it is.
    """
    folder = bundles.checkpoint(gesso_bundles, preset="sdxl-tiny", in_channels=4)
    random = torch.Generator().manual_seed(0)
    vectors = {"clip_l": torch.randn(2, 16, generator=random), "clip_g": torch.randn(2, 24, generator=random)}
    save_file(vectors, tmp_path / "toy.safetensors")
    inversion = read(f"<toy>={tmp_path / 'toy.safetensors'}")
    model = families.describe(open_checkpoint(folder, "tiny"), [inversion])
    networks = {network.name: network for network in model.networks}
    ours = {}
    for encoder, source in model.tokenizers.items():
        spec = tokenizer.write(source, tmp_path)
        assert spec.embeddings == {"<toy>": 2}
        ends = spec.bos_token_id, spec.eos_token_id, spec.pad_token_id
        ids = PromptTokenizer(tmp_path, TokenizerSpec(spec.file, spec.max_length, *ends, spec.embeddings)).encode(
            [("a photo of <toy> in a garden", 1.0)]
        )
        with torch.inference_mode():
            ours[encoder] = networks[encoder].load()(torch.from_numpy(ids.ids), torch.zeros(1, dtype=torch.int64))

    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    for key, encoder, words in (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        pipeline.load_textual_inversion(vectors[key], token="<toy>", text_encoder=encoder, tokenizer=words)
    pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    with torch.inference_mode():
        hidden, _, pooled, _ = pipeline.encode_prompt(
            "a photo of <toy> in a garden", device=torch.device("cpu"), do_classifier_free_guidance=False
        )
    second, summary = ours["text_encoder_2"]
    np.testing.assert_allclose(torch.cat([ours["text_encoder"], second], dim=-1).numpy(), hidden.numpy(), atol=1e-5)
    np.testing.assert_allclose(summary.numpy(), pooled.numpy(), atol=1e-5)


def test_an_embedding_of_another_family_is_refused_by_sdxl(gesso_bundles: Path) -> None:
    """Guards against vectors for one encoder alone, and for encoders of other widths."""
    folder = bundles.checkpoint(gesso_bundles, preset="sdxl-tiny", in_channels=4)
    opened = open_checkpoint(folder, "tiny")
    narrow = np.zeros((1, 16), np.float32)
    for embedding, message in (
        (Embedding("toy", narrow), "embedding toy: is of a model with one text encoder"),
        (Embedding("toy", narrow, narrow), "embedding toy: is 16 wide, the text encoder 24"),
    ):
        with pytest.raises(CheckpointError, match=message):
            families.describe(opened, [embedding])
