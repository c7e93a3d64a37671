"""One picture's life, driven by hand: which networks are asked for what, in which order, and what is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from backend.fakes import TOKENS, Arrays, FakeEngines, FakeTokenizer, fake_bundle, hole, inputs, picture
from gesso_backend.call import Call
from gesso_backend.errors import InternalError
from gesso_backend.kinds.diffusion import denoise
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.denoise import Conditions, encode, preview_rgb, sample
from gesso_backend.kinds.diffusion.families import FAMILIES, clip
from gesso_backend.kinds.diffusion.noise import NoiseStream
from gesso_backend.kinds.diffusion.prepared import Prepared, prepare
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.kinds.diffusion.samplers import advance, estimate_x0
from gesso_backend.kinds.kind import Preview, Progress
from gesso_backend.pixels.pixels import to_network, to_picture

IMAGE, MASK = picture(32, 48), hole(32, 48)
SHAPE = (1, 4, 4, 6)
STEPS = 3


def prepared_of(bundle: DiffusionBundle, **values: Any) -> Prepared:
    request = parse(inputs(**{"num_inference_steps": STEPS, "seed": 5, **values}), bundle)
    return prepare(request, bundle, FAMILIES[bundle.family], {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]


def drive(generator: Generator[Any, Any, Any], engines: dict[str, Callable[..., Arrays]]) -> tuple[list[Any], Any]:
    """Everything it yielded, and what it returned."""
    items: list[Any] = []
    answer = None
    while True:
        try:
            item = generator.send(answer)
        except StopIteration as stop:
            return items, stop.value
        items.append(item)
        answer = engines[item.network](**item.inputs) if isinstance(item, Call) else None


def run(
    bundle: DiffusionBundle, engines: dict[str, Callable[..., Arrays]] | None = None, **values: Any
) -> tuple[list[Any], Any]:
    """A whole request of one image; everything it yielded, and its canvas."""
    engines = engines or FakeEngines()
    prepared = prepared_of(bundle, **values)
    before, conditions = drive(encode(prepared, bundle, FAMILIES[bundle.family]), engines)
    after, canvas = drive(sample(prepared, conditions, bundle, FAMILIES[bundle.family], 0), engines)
    return before + after, canvas


def calls(items: list[Any]) -> list[Call]:
    return [item for item in items if isinstance(item, Call)]


def unet_calls(items: list[Any]) -> list[Call]:
    return [call for call in calls(items) if call.network == "unet"]


INPAINT = {"image": IMAGE, "mask_image": MASK}


@pytest.mark.parametrize(
    ("in_channels", "values", "encoded"),
    [
        (9, {}, ["masked"]),
        (9, {"image": IMAGE, "strength": 1.0}, ["picture", "masked"]),
        (9, {"image": IMAGE, "strength": 0.7}, ["picture", "masked"]),
        (9, INPAINT, ["picture", "masked"]),
        (9, {**INPAINT, "latent_blend": False}, ["masked"]),
        (9, {**INPAINT, "strength": 0.7}, ["picture", "masked"]),
        (9, {**INPAINT, "strength": 0.7, "latent_blend": False}, ["picture", "masked"]),
        (4, {}, []),
        (4, {"image": IMAGE, "strength": 0.7}, ["picture"]),
        (4, INPAINT, ["picture"]),
        (4, {**INPAINT, "latent_blend": False}, ["picture"]),
        (4, {**INPAINT, "strength": 0.7}, ["picture"]),
    ],
)
def test_each_task_asks_for_what_it_needs_and_no_more(
    in_channels: int, values: dict[str, Any], encoded: list[str]
) -> None:
    """Guards the VAE encoder, the dearest call after the denoiser: once too often is a second on a CPU."""
    items, canvas = run(fake_bundle(in_channels), **values)
    steps = 2 if values.get("strength") == 0.7 else STEPS
    networks = [call.network for call in calls(items)]
    assert networks == ["text_encoder"] + ["vae_encoder"] * len(encoded) + ["unet"] * steps + ["vae_decoder"]
    picture_pixels = to_network(IMAGE) if "image" in values else np.zeros((1, 3, 32, 48), np.float32)
    repaint = np.ones((32, 48)) if "mask_image" not in values else MASK > 0
    wanted = {"picture": picture_pixels, "masked": picture_pixels * ~repaint.astype(bool)}
    for name, call in zip(encoded, calls(items)[1:], strict=False):
        np.testing.assert_array_equal(call.inputs["sample"], wanted[name])
    assert canvas.shape == (32, 48, 3)
    assert canvas.dtype == np.uint8


def test_the_denoiser_sees_latents_mask_and_masked_picture_in_this_order() -> None:
    """Guards the nine channels, which nothing but the picture would show to be mixed up."""
    bundle = fake_bundle()
    items, _ = run(bundle, **INPAINT, guidance_scale=1.0)
    stream = NoiseStream(5)
    first = unet_calls(items)[0].inputs["sample"]
    moments = FakeEngines()["vae_encoder"](sample=to_network(IMAGE) * (MASK == 0))["moments"]
    mean, logvar = np.split(moments, 2, axis=1)
    noise = stream.normal(SHAPE)  # with the start from pure noise, the picture itself is not drawn for
    masked = (mean + np.exp(0.5 * logvar) * stream.normal(SHAPE) - np.float32(0.25)) * np.float32(0.5)
    assert first.shape == (1, 9, 4, 6)
    np.testing.assert_array_equal(first[:, :4], noise)  # DDIM's first sigma is 1
    np.testing.assert_array_equal(first[0, 4], (MASK[::8, ::8] > 0).astype(np.float32))
    np.testing.assert_array_equal(first[:, 5:], masked)
    for call in unet_calls(items)[1:]:
        np.testing.assert_array_equal(call.inputs["sample"][:, 4:], first[:, 4:])


def test_each_step_has_the_timestep_and_scale_of_its_row() -> None:
    """Guards Euler, whose input is scaled and whose first sigma is far above 1."""
    bundle = fake_bundle(in_channels=4)
    prepared = prepared_of(bundle, scheduler="euler")
    items, _ = run(bundle, scheduler="euler")
    steps = prepared.table.steps
    for call, step in zip(unet_calls(items), steps, strict=True):
        assert call.inputs["timestep"].tolist() == [np.float32(step.timestep)] * 2
        assert call.inputs["timestep"].dtype == np.float32
    start = NoiseStream(5).normal(SHAPE) * np.float32(prepared.table.init_noise_sigma)
    np.testing.assert_array_equal(unet_calls(items)[0].inputs["sample"][:1], start * np.float32(steps[0].input_scale))


def test_the_texts_of_a_long_prompt_are_one_sequence() -> None:
    """Guards the order of chunks, and clip_skip on its way to the text encoder."""
    long = "x" * TOKENS + "y"
    items, _ = run(fake_bundle(), prompt=long, negative_prompt="n", clip_skip=1)
    (encoding,) = [item for item in items if isinstance(item, Call) and item.network == "text_encoder"]
    assert encoding.inputs["input_ids"][:, 0].tolist() == [ord("n"), 2, ord("x"), ord("y")]
    assert encoding.inputs["clip_skip"].tolist() == [1] * 4
    embeddings = unet_calls(items)[0].inputs["encoder_hidden_states"]
    assert embeddings.shape == (2, 2 * TOKENS, 4)
    assert embeddings[1, [0, TOKENS], 0].tolist() == [np.float32(ord(letter) / 128 - 1) for letter in "xy"]


def test_emphasis_scales_tokens_and_keeps_the_mean() -> None:
    """Guards the web UI's arithmetic: a weight of 2 on one token, the rest made smaller so that the mean stays."""
    embeddings = np.random.default_rng(0).standard_normal((2, 5, 3), np.float32)
    weights = np.ones((2, 5), np.float32)
    np.testing.assert_array_equal(clip._weigh(embeddings, weights), embeddings)
    weights[0, 2] = 2
    weighed = clip._weigh(embeddings, weights)
    np.testing.assert_allclose(weighed.mean(axis=(1, 2)), embeddings.mean(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(weighed[0, 2] / weighed[0, 1], 2 * embeddings[0, 2] / embeddings[0, 1], rtol=1e-4)
    np.testing.assert_array_equal(weighed[1], embeddings[1])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_the_negative_prompts_strength_is_its_distance_from_nothing(strength: float) -> None:
    """Guards both ends: 0 is no negative prompt, 1 is the negative prompt as it is."""
    items, _ = run(fake_bundle(), prompt="p", negative_prompt="n", negative_prompt_strength=strength)
    negative, prompt = unet_calls(items)[0].inputs["encoder_hidden_states"][:, 0, 0]
    nothing, n, p = (np.float32(number / 128) for number in (2, ord("n"), ord("p")))
    assert prompt == p
    assert negative == pytest.approx(nothing + strength * (n - nothing))


def test_guidance_rescale_brings_the_spread_back_to_the_conditional_one() -> None:
    """Guards section 3.4 of arXiv:2305.08891 as diffusers has it: standard deviations over all but the row axis."""
    prediction = np.random.default_rng(0).standard_normal((2, 4, 5, 6), np.float32)
    guided = prediction[:1] + np.float32(6) * (prediction[1:] - prediction[:1])
    expected = rescale_noise_cfg(torch.from_numpy(guided), torch.from_numpy(prediction[1:]), guidance_rescale=0.7)
    np.testing.assert_allclose(denoise._guide(prediction, 6.0, 0.7), expected.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(denoise._guide(prediction, 6.0, 0.0), guided)


def test_guidance_is_unconditional_plus_scale_times_the_difference() -> None:
    """Guards the formula and its rows: both see the same latents, each its own embedding."""
    bundle = fake_bundle(in_channels=4)
    engines = FakeEngines()
    rng = np.random.default_rng(0)
    told: list[np.ndarray[Any, Any]] = []

    def unet(**arrays: Any) -> Arrays:
        np.testing.assert_array_equal(arrays["sample"][0], arrays["sample"][1])
        told.append(rng.standard_normal((2, *SHAPE[1:]), np.float32))
        return {"noise_pred": told[-1]}

    engines["unet"] = unet
    items, _ = run(bundle, engines, prompt="p", negative_prompt="n", guidance_scale=3.5)
    texts = unet_calls(items)[0].inputs["encoder_hidden_states"][:, 0, 0]
    assert texts.tolist() == [np.float32(ord(letter) / 128) for letter in "np"]
    step = prepared_of(bundle).table.steps[0]
    guided = told[0][:1] + np.float32(3.5) * (told[0][1:] - told[0][:1])
    expected = advance(step, [NoiseStream(5).normal(SHAPE)], [guided], None)
    np.testing.assert_array_equal(unet_calls(items)[1].inputs["sample"][:1], expected)


def test_image_to_image_starts_from_the_noised_picture() -> None:
    """Guards strength: the start is the level of the first step that is run, with the noise drawn after the latents."""
    bundle = fake_bundle(in_channels=4)
    values = {"image": IMAGE, "strength": 0.7, "guidance_scale": 1.0}
    items, _ = run(bundle, **values)
    stream = NoiseStream(5)
    mean, logvar = np.split(FakeEngines()["vae_encoder"](sample=to_network(IMAGE))["moments"], 2, axis=1)
    latents = (mean + np.exp(0.5 * logvar) * stream.normal(SHAPE) - np.float32(0.25)) * np.float32(0.5)
    signal, sigma = prepared_of(bundle, **values).table.start
    expected = np.float32(signal) * latents + np.float32(sigma) * stream.normal(SHAPE)
    np.testing.assert_array_equal(unet_calls(items)[0].inputs["sample"], expected)


@pytest.mark.parametrize("in_channels", [4, 9])
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_kept_latents_end_as_the_pictures_own(in_channels: int, strength: float) -> None:
    """Guards blending: noised to the next level at every step, clean after the last, untouched by the denoiser."""
    bundle = fake_bundle(in_channels)
    items, _ = run(bundle, **INPAINT, strength=strength)
    final = calls(items)[-1].inputs["latents"]
    moments = FakeEngines()["vae_encoder"](sample=to_network(IMAGE))["moments"]
    mean, logvar = np.split(moments, 2, axis=1)
    # An inpainting model that starts from pure noise is given the posterior's mean, as diffusers draws nothing there.
    drawn = 0 if (in_channels, strength) == (9, 1.0) else np.exp(0.5 * logvar) * NoiseStream(5).normal(SHAPE)
    kept = MASK[::8, ::8] == 0
    assert kept.any()
    np.testing.assert_allclose(final[0][:, kept], (mean + drawn)[0][:, kept], atol=1e-6)
    assert not np.allclose(final[0][:, ~kept], (mean + drawn)[0][:, ~kept], atol=0.1)


def test_without_latent_blend_an_inpainting_model_is_left_to_itself() -> None:
    """Guards bit-level diffusers semantics: kept latents are the denoiser's own."""
    bundle = fake_bundle()
    blended, _ = run(bundle, **INPAINT)
    free, _ = run(bundle, **INPAINT, latent_blend=False)
    first, second = (unet_calls(items)[1].inputs["sample"][0, :4] for items in (blended, free))
    repainted = MASK[::8, ::8] > 0
    np.testing.assert_array_equal(first[:, repainted], second[:, repainted])
    assert (first[:, ~repainted] != second[:, ~repainted]).all()


def test_a_sampler_that_draws_draws_once_a_step_from_the_requests_own_stream() -> None:
    """Guards Euler ancestral's noise against a stream that is shared, or read out of turn."""
    bundle = fake_bundle(in_channels=4)
    values = {"scheduler": "euler_ancestral", "guidance_scale": 1.0}
    items, _ = run(bundle, **values)
    table = prepared_of(bundle, **values).table
    stream, engines = NoiseStream(5), FakeEngines()
    x = stream.normal(SHAPE) * np.float32(table.init_noise_sigma)
    for call, step in zip(unet_calls(items), table.steps, strict=True):
        scaled = x * np.float32(step.input_scale)
        np.testing.assert_array_equal(call.inputs["sample"], scaled)
        prediction = engines["unet"](**{**call.inputs, "sample": scaled})["noise_pred"]
        x = advance(step, [x], [prediction], stream.normal(SHAPE))


def test_image_i_is_the_image_of_seed_plus_i() -> None:
    """Guards num_images_per_prompt against images that follow one another in one stream."""
    bundle = fake_bundle()
    prepared, next_seed = prepared_of(bundle, seed=5), prepared_of(bundle, seed=6)
    _, conditions = drive(encode(prepared, bundle, FAMILIES[bundle.family]), FakeEngines())
    _, second = drive(sample(prepared, conditions, bundle, FAMILIES[bundle.family], 1), FakeEngines())
    _, alone = drive(sample(next_seed, conditions, bundle, FAMILIES[bundle.family], 0), FakeEngines())
    np.testing.assert_array_equal(second, alone)


# Progress and previews


@pytest.mark.parametrize(("every", "previews"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (5, []), (200, [])])
def test_previews_come_every_so_many_steps_but_not_at_the_last(every: int, previews: list[int]) -> None:
    """Guards the count: the last step's preview would be the image itself, a moment earlier."""
    items, _ = run(fake_bundle(), num_inference_steps=5, preview_every=every)
    told = [item for item in items if not isinstance(item, Call)]
    assert [(item.step, item.num_steps) for item in told if isinstance(item, Progress)] == [(n, 5) for n in range(1, 6)]
    assert [item.step for item in told if isinstance(item, Preview)] == previews
    for before, item in itertools.pairwise(told):
        if isinstance(item, Preview):
            assert isinstance(before, Progress)
            assert before.step == item.step


def test_a_preview_is_the_estimate_of_the_clean_image() -> None:
    """Guards previews against showing the noisy latents, which look like nothing until the end."""
    bundle = fake_bundle(in_channels=4)
    items, _ = run(bundle, preview_every=1, guidance_scale=1.0)
    (preview, *_) = [item for item in items if isinstance(item, Preview)]
    call, step = unet_calls(items)[0], prepared_of(bundle).table.steps[0]
    x0 = estimate_x0(step, NoiseStream(5).normal(SHAPE), FakeEngines()["unet"](**call.inputs)["noise_pred"])
    np.testing.assert_array_equal(preview.pixels, preview_rgb(x0, bundle.preview_rgb))


def test_preview_colours_are_latents_times_matrix_plus_bias() -> None:
    """Guards the bundle's formula and its axes."""
    bundle = fake_bundle()
    latents = np.random.default_rng(0).uniform(-1, 1, (1, 4, 3, 5)).astype(np.float32)
    matrix, bias = np.array(bundle.preview_rgb.matrix), np.array(bundle.preview_rgb.bias)
    rgb = latents[0].transpose(1, 2, 0).astype(np.float64) @ matrix + bias  # [h, w, 3]
    expected = to_picture(rgb.transpose(2, 0, 1)[None].astype(np.float32))
    np.testing.assert_allclose(preview_rgb(latents, bundle.preview_rgb).astype(int), expected, atol=1)


# Networks that break


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's own word on it
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_denoiser_that_breaks_is_named_with_its_step(value: float) -> None:
    """Guards half-precision overflow from passing as a black picture."""
    engines = FakeEngines()
    unet, seen = engines["unet"], []

    def breaks(**arrays: Any) -> Arrays:
        outputs = unet(**arrays)
        seen.append(1)
        if len(seen) == 2:
            outputs["noise_pred"][0, 0, 0, 0] = value
        return outputs

    engines["unet"] = breaks
    with pytest.raises(InternalError, match=r"^INTERNAL: the unet gave NaN or infinity at step 2$"):
        run(fake_bundle(), engines)


def test_a_decoder_that_breaks_is_named() -> None:
    """Guards the VAE, whose half-precision overflow is the best known of all."""
    engines = FakeEngines()
    decoder = engines["vae_decoder"]
    engines["vae_decoder"] = lambda **arrays: {"image": decoder(**arrays)["image"] * np.float32(np.nan)}
    with pytest.raises(InternalError, match=r"^INTERNAL: the VAE decoder gave NaN or infinity$"):
        run(fake_bundle(), engines)


def test_an_answer_is_not_edited() -> None:
    """Guards engines that hand out one buffer to every row of a batch, and batch-mates that share the answer."""
    bundle = fake_bundle()
    prepared = prepared_of(bundle, **INPAINT, preview_every=1)
    engines = FakeEngines()

    def frozen(name: str) -> Callable[..., Arrays]:
        def engine(**arrays: Any) -> Arrays:
            outputs = FakeEngines()[name](**arrays)
            for array in (*arrays.values(), *outputs.values()):
                array.flags.writeable = False
            return outputs

        return engine

    engines.update({name: frozen(name) for name in list(engines)})
    _, conditions = drive(encode(prepared, bundle, FAMILIES[bundle.family]), engines)
    assert isinstance(conditions, Conditions)
    drive(sample(prepared, conditions, bundle, FAMILIES[bundle.family], 0), engines)
