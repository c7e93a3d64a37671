"""What is worked out before any network runs: tokens, rows, plans, masks, and the warnings about them."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from backend.fakes import TOKENS, FakeTokenizer, fake_bundle, hole, inputs, picture
from backend.real import Real
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families import FAMILIES
from gesso_backend.kinds.diffusion.families.clip import MAX_CHUNKS
from gesso_backend.kinds.diffusion.prepared import Prepared, prepare
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.model.parameters import Parameter
from gesso_backend.pixels.mask import feather
from gesso_backend.pixels.pixels import to_network, to_picture

IMAGE, MASK = picture(32, 48), hole(32, 48)


def prepared_of(bundle: DiffusionBundle | None = None, tokenizer: Any = None, **values: Any) -> Prepared:
    bundle = bundle or fake_bundle()
    return prepare(
        parse(inputs(**values), bundle), bundle, FAMILIES[bundle.family], {"text_encoder": tokenizer or FakeTokenizer()}
    )


def ids(prepared: Prepared) -> Any:
    return prepared.texts["text_encoder"].ids


# Prompts

LONG = "a photograph of a weathered stone bridge over a quiet river, " * 8


def plain(prompt: str) -> list[tuple[str, float]]:
    return [(prompt, 1.0)]


def test_a_prompt_over_the_limit_warns_with_the_text_that_was_cut(real: Real) -> None:
    """Guards against prompts that are cut in silence: the end of a long prompt is often its point."""
    prepared = prepared_of(real.bundle, real.tokenizer, prompt=LONG, long_prompt=False)
    (warning,) = prepared.warnings
    head, _, quoted = warning.partition("; cut: ")
    assert head == "prompt is over the limit of 77 tokens"
    cut = quoted.strip("'")
    assert LONG.strip().endswith(cut)
    kept = LONG.strip().removesuffix(cut)
    again = real.tokenizer.encode(plain(kept))
    assert again.cut == ""
    np.testing.assert_array_equal(again.ids, ids(prepared)[1])  # what was not cut is what is used
    assert real.tokenizer.encode(plain(f"{kept} {cut.split()[0]}")).cut != ""  # one word more would not have fitted


def test_the_negative_prompt_is_cut_and_told_under_its_own_name(real: Real) -> None:
    """Guards the warning's field; both prompts can be too long at once."""
    prepared = prepared_of(real.bundle, real.tokenizer, prompt=LONG, negative_prompt=LONG, long_prompt=False)
    assert [warning.split()[0] for warning in prepared.warnings] == ["negative_prompt", "prompt"]


def test_a_prompt_at_the_limit_is_not_warned_of(real: Real) -> None:
    """Guards off by one: 75 words of one token and the two ends are 77."""
    fits, too_long = " ".join(["fox"] * 75), " ".join(["fox"] * 76)
    assert ids(prepared_of(real.bundle, real.tokenizer, prompt=fits)).shape == (2, 1, 77)
    assert prepared_of(real.bundle, real.tokenizer, prompt=fits, long_prompt=False).warnings == ()
    assert ids(prepared_of(real.bundle, real.tokenizer, prompt=too_long)).shape == (2, 2, 77)
    assert prepared_of(real.bundle, real.tokenizer, prompt=too_long, long_prompt=False).warnings == (
        "prompt is over the limit of 77 tokens; cut: 'fox'",
    )


def test_a_long_prompt_is_as_many_chunks_as_it_needs(real: Real) -> None:
    """Guards the text beyond 75 tokens: each chunk has its own start and end, and together they are the prompt."""
    spec = real.bundle.tokenizers["text_encoder"]
    prepared = prepared_of(real.bundle, real.tokenizer, prompt=LONG, negative_prompt="blurry")
    negative, prompt = ids(prepared)
    assert prepared.warnings == ()
    content = [int(i) for chunk in prompt for i in chunk[1:-1] if i not in (spec.eos_token_id, spec.pad_token_id)]
    assert content == real.tokenizer._tokenizer.encode(LONG, add_special_tokens=False).ids
    assert (prompt[:, 0] == spec.bos_token_id).all()
    assert prompt[0, -1] == spec.eos_token_id
    nothing = real.tokenizer.encode(plain("")).ids[0]
    assert len(prompt) == len(negative) == 2
    np.testing.assert_array_equal(negative[1], nothing)  # the shorter text is filled up


def test_chunks_end_somewhere() -> None:
    """Guards the cost of one request: 16 KiB of prompt would be sixty chunks in every attention."""
    longest = "x" * TOKENS * MAX_CHUNKS
    bounds = {"prompt": Parameter("string", max_bytes=1000)}
    unbounded = dataclasses.replace(fake_bundle(), parameters={**fake_bundle().parameters, **bounds})
    assert prepared_of(unbounded, prompt=longest).warnings == ()
    prepared = prepared_of(unbounded, prompt=longest + "tail", negative_prompt="n")
    assert ids(prepared).shape == (2, MAX_CHUNKS, TOKENS)
    assert prepared.warnings == (f"prompt is over the limit of {TOKENS} tokens in each of 8 chunks; cut: 'tail'",)


def test_token_ids_are_padded_to_the_full_length(real: Real) -> None:
    """Guards the text encoder's fixed axis, and the pad token, which differs between CLIP and OpenCLIP."""
    spec = real.bundle.tokenizers["text_encoder"]
    tokens = real.tokenizer.encode(plain("fox"))
    ((ids,), cut) = tokens.ids, tokens.cut
    assert (len(ids), ids.dtype, cut) == (spec.max_length, np.int64, "")
    assert ids[0] == spec.bos_token_id
    assert ids[2] == spec.eos_token_id
    assert (ids[3:] == spec.pad_token_id).all()


def test_emphasis_weighs_the_tokens_of_its_words(real: Real) -> None:
    """Guards weights against sliding off their words, and the brackets against being read as text."""
    prepared = prepared_of(real.bundle, real.tokenizer, prompt="a (red:1.5) fox", prompt_weighting=True)
    same_words = prepared_of(real.bundle, real.tokenizer, prompt="a red fox")
    np.testing.assert_array_equal(ids(prepared), ids(same_words))
    assert prepared.texts["text_encoder"].weights[1, 0, :5].tolist() == [1, 1, 1.5, 1, 1]
    assert (prepared.texts["text_encoder"].weights[0] == 1).all()
    literal = prepared_of(real.bundle, real.tokenizer, prompt="a (red:1.5) fox")
    assert (literal.texts["text_encoder"].weights == 1).all()
    assert (ids(literal) != ids(same_words)).any()


def test_a_weight_that_is_none_is_refused_in_its_own_prompt() -> None:
    """Guards the field's name: two texts are read."""
    with pytest.raises(InvalidRequest, match=r"negative_prompt: '1\.2\.3' is not a weight"):
        prepared_of(prompt="(fine:1.2)", negative_prompt="(odd:1.2.3)", prompt_weighting=True)


def test_the_empty_text_is_encoded_only_where_the_negative_prompt_is_compared_with_it() -> None:
    """Guards the price: a third text for the text encoder only when it is used."""
    assert ids(prepared_of(prompt="p", negative_prompt="n")).shape[0] == 2
    assert ids(prepared_of(prompt="p", negative_prompt="n", negative_prompt_strength=0.5)).shape[0] == 3
    unguided = prepared_of(prompt="p", negative_prompt="n", negative_prompt_strength=0.5, guidance_scale=1.0)
    assert ids(unguided).shape[0] == 1


@pytest.mark.parametrize("scale", [0.0, 0.999, 1.0])
def test_guidance_of_one_or_less_is_one_row(scale: float) -> None:
    """Guards the price: no guidance, no unconditional row, and the row that is left is the prompt's."""
    prepared = prepared_of(prompt="p", negative_prompt="n", guidance_scale=scale)
    assert ids(prepared)[:, 0, 0].tolist() == [ord("p")]


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 1), (1.0, 1), (1.001, 2), (7.5, 2)])
def test_guidance_starts_above_one(scale: float, rows: int) -> None:
    """Guards diffusers' rule, on which the number of rows depends."""
    assert prepared_of(guidance_scale=scale).rows == rows


def test_guidance_is_two_rows_the_negative_first() -> None:
    """Guards the order that the guidance formula takes for granted."""
    prepared = prepared_of(prompt="p", negative_prompt="n", guidance_scale=1.5)
    assert ids(prepared)[:, 0, 0].tolist() == [ord("n"), ord("p")]


# Steps


def test_a_strength_that_leaves_no_step_says_which_would_do() -> None:
    """Guards the advice: 1/3 rounded to four digits was advised for 3 steps once, and refused in turn."""
    for steps in range(1, 201):
        with pytest.raises(InvalidRequest) as caught:
            prepared_of(image=IMAGE, num_inference_steps=steps, strength=0.004)
        assert caught.value.field == "strength"
        advised = float(caught.value.text.rpartition(" ")[2])
        assert len(prepared_of(image=IMAGE, num_inference_steps=steps, strength=advised).table.steps) == 1


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.999, 9), (0.7, 7), (0.55, 5), (0.1, 1)])
def test_strength_leaves_its_share_of_the_steps(strength: float, steps: int) -> None:
    """Guards diffusers' int(steps * strength), float32 on the wire included."""
    assert len(prepared_of(image=IMAGE, num_inference_steps=10, strength=strength).table.steps) == steps


def changed(**config: Any) -> DiffusionBundle:
    bundle = fake_bundle()
    whole = types.MappingProxyType({**bundle.scheduler.config, **config})
    return dataclasses.replace(bundle, scheduler=dataclasses.replace(bundle.scheduler, config=whole))


def test_more_steps_than_the_schedule_has_name_the_field_once() -> None:
    """Guards the message a client sees."""
    with pytest.raises(InvalidRequest) as caught:
        prepared_of(changed(num_train_timesteps=20), num_inference_steps=30)
    assert str(caught.value) == ("INVALID_ARG: num_inference_steps: 30 timesteps do not fit into 20 training timesteps")


def test_a_config_no_table_expresses_is_the_schedulers_fault() -> None:
    """Guards against an internal error for what another scheduler might serve."""
    with pytest.raises(InvalidRequest) as caught:
        prepared_of(changed(prediction_type="flow"))
    assert caught.value.field == "scheduler"
    assert "prediction_type='flow'" in caught.value.text


# Pixels


def test_pixels_go_to_the_network_as_diffusers_sends_them() -> None:
    """Guards the last bit of the input: 2 * (x / 255) - 1, in float32 and in this order."""
    image = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=2)
    ours = to_network(image)
    theirs = VaeImageProcessor(vae_scale_factor=8).preprocess(
        torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
    assert ours.flags.c_contiguous


def test_pictures_come_from_the_network_as_diffusers_makes_them() -> None:
    """Guards rounding and clipping, at the borders between levels and beyond the range."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1.3, 1.3, (1, 3, 32, 32)).astype(np.float32)
    image[0, 0].flat[:255] = (2 * (np.arange(255) + 0.5) / 255 - 1).astype(np.float32)
    (theirs,) = VaeImageProcessor().postprocess(torch.from_numpy(image), output_type="pil")
    np.testing.assert_array_equal(to_picture(image), np.asarray(theirs))


def test_a_picture_through_the_identity_is_itself() -> None:
    """Guards a shade that moves although nothing was repainted."""
    image = picture(16, 16)
    np.testing.assert_array_equal(to_picture(to_network(image)), image)


# Masks


def test_text_to_image_has_neither_pixels_nor_mask_on_a_plain_model() -> None:
    """Guards the optional parts."""
    prepared = prepared_of(fake_bundle(in_channels=4))
    assert prepared.pixels is prepared.repaint is prepared.latent_mask is prepared.alpha is None
    assert prepared.latent_shape == (4, 6)


@pytest.mark.parametrize("values", [{}, {"image": IMAGE}])
def test_an_inpainting_model_without_a_mask_repaints_everything(values: dict[str, Any]) -> None:
    """Guards the siblings on a 9-channel network, whose mask channel must say something."""
    prepared = prepared_of(**values)
    assert prepared.repaint is not None
    assert prepared.latent_mask is not None
    assert prepared.repaint.shape == (1, 1, 32, 48)
    assert prepared.latent_mask.shape == (1, 1, 4, 6)
    assert prepared.repaint.all()
    assert prepared.latent_mask.all()
    assert prepared.alpha is None


def thin() -> np.ndarray[Any, Any]:
    mask = np.zeros((32, 48), np.uint8)
    mask[5] = 255
    return mask


def test_a_thin_stroke_is_widened_when_latents_are_blended() -> None:
    """Guards the default: what the user drew is repainted."""
    prepared = prepared_of(image=IMAGE, mask_image=thin())
    assert prepared.latent_mask is not None
    assert prepared.latent_mask.sum() == 6
    assert prepared.warnings == ()


def test_without_latent_blend_the_mask_is_nearest_and_what_is_lost_is_warned_of() -> None:
    """Guards bit-level diffusers semantics, and the user who wonders why nothing changed."""
    prepared = prepared_of(image=IMAGE, mask_image=thin(), latent_blend=False)
    assert prepared.latent_mask is not None
    assert prepared.latent_mask.sum() == 0
    assert prepared.warnings == ("parts of the mask are thinner than a latent; 6 latents are not repainted",)
    assert prepared_of(image=IMAGE, mask_image=MASK, latent_blend=False).warnings == ()


def test_the_alpha_is_the_masks_own_levels_feathered_at_full_size() -> None:
    """Guards soft masks: the network gets them binarised, the compositing does not."""
    soft = np.minimum(MASK, 180)
    soft[0, 0] = 60  # a level below 8 would be noise
    prepared = prepared_of(image=IMAGE, mask_image=soft, mask_feather=3)
    np.testing.assert_array_equal(prepared.alpha, feather(soft, 3))
    assert prepared.repaint is not None
    np.testing.assert_array_equal(prepared.repaint[0, 0], (soft >= 128).astype(np.float32))


def test_scaling_down_is_told() -> None:
    """Guards the user who wonders where the detail went."""
    prepared = prepared_of(image=picture(300, 400), mask_image=np.full((300, 400), 255, np.uint8))
    assert prepared.warnings == ("worked at 104x72 and scaled back to 400x300",)
    assert prepared.latent_shape == (9, 13)
