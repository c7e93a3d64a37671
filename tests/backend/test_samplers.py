"""Every sampler's table against its diffusers scheduler, driven side by side by one nonlinear model."""

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.noise import NoiseStream
from gesso_backend.kinds.diffusion.samplers import SAMPLERS, Table, UnsupportedScheduler, advance, estimate_x0, tabulate

diffusers.utils.logging.set_verbosity_error()

Array = NDArray[np.float32]
SHAPE = (1, 4, 3, 5)
SEED = 1234
# Of each of some forty samplers, a tenth of what other property tests have: a new ten each day, 200 in the slow run.
EXAMPLES = settings.default.max_examples // 10  # type: ignore[attr-defined]

_NO_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_SPACINGS = {
    "karras": {**_NO_SIGMAS, "use_karras_sigmas": True},
    "exponential": {**_NO_SIGMAS, "use_exponential_sigmas": True},
    "beta": {**_NO_SIGMAS, "use_beta_sigmas": True},
    "sgm_uniform": {**_NO_SIGMAS, "timestep_spacing": "trailing"},
}
_DPM = {"solver_order": 2, "solver_type": "midpoint"}
_CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {**_DPM, "algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {**_DPM, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": (diffusers.DPMSolverSinglestepScheduler, {**_DPM, "algorithm_type": "dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}),
    "lcm": (diffusers.LCMScheduler, {}),
    "tcd": (diffusers.TCDScheduler, {}),
    "flow_euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "flow_heun": (diffusers.FlowMatchHeunDiscreteScheduler, {}),
}


def _reference(name: str) -> tuple[Any, dict[str, Any]]:
    base = max((base for base in _CLASSES if name == base or name.startswith(f"{base}_")), key=len)
    scheduler, overrides = _CLASSES[base]
    return scheduler, {**overrides, **_SPACINGS.get(name.removeprefix(base).removeprefix("_"), _NO_SIGMAS)}


REFERENCES = {name: _reference(name) for name in SAMPLERS}
DIFFUSION = [name for name in SAMPLERS if not name.startswith("flow_")]
FLOW = [name for name in SAMPLERS if name.startswith("flow_")]
RESPACED = [name for name in SAMPLERS if name.endswith(("_karras", "_exponential", "_beta"))]
_SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# scheduler_config.json files as checkpoints carry them.
FILES: dict[str, dict[str, Any]] = {
    "sd15": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **_SD_BETAS,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
    "sd15_without_clip_sample": {
        "_class_name": "PNDMScheduler",
        **_SD_BETAS,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "sd21": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **_SD_BETAS,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "zero_snr": {
        "_class_name": "DDIMScheduler",
        **_SD_BETAS,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "skip_prk_steps": True,
        "timestep_spacing": "trailing",
    },
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler",
        **_SD_BETAS,
        "clip_sample": False,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    "karras": {
        "_class_name": "EulerDiscreteScheduler",
        **_SD_BETAS,
        "use_karras_sigmas": True,
        "sigma_min": 0.04,
        "sigma_max": 12.0,
        "final_sigmas_type": "sigma_min",
        "skip_prk_steps": True,
    },
    "dpm": {
        "_class_name": "DPMSolverMultistepScheduler",
        **_SD_BETAS,
        "algorithm_type": "sde-dpmsolver++",
        "solver_order": 3,
        "solver_type": "heun",
        "lambda_min_clipped": -5.1,
        "beta_schedule": "squaredcos_cap_v2",
        "timestep_spacing": "linspace",
        "use_karras_sigmas": True,
        "_use_default_values": ["timestep_spacing"],
    },
    "bare_euler": {"_class_name": "EulerDiscreteScheduler"},
    "bare_pndm": {"_class_name": "PNDMScheduler"},
    "empty": {},
}

FLOW_FILES: dict[str, dict[str, Any]] = {
    "flux_dev": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    },
    "flux_schnell": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
    },
    "sd3": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
}

# What a file may say differently; each key is left alone as often as not.
TRAINED_BETAS = np.linspace(1e-4, 0.03, 1000).tolist()
changes = st.fixed_dictionaries(
    {},
    optional={
        "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "trained_betas": st.booleans(),  # TRAINED_BETAS or none
        "prediction_type": st.sampled_from(["epsilon", "v_prediction", "sample"]),
        "timestep_spacing": st.sampled_from(["leading", "linspace", "trailing"]),
        "steps_offset": st.sampled_from([0, 1]),
        "rescale_betas_zero_snr": st.booleans(),
        "set_alpha_to_one": st.booleans(),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.sampled_from([0.5, 1, 3.0]),
        "skip_prk_steps": st.booleans(),
        "use_karras_sigmas": st.booleans(),
        "timestep_type": st.sampled_from(["discrete", "continuous"]),
        "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
        "lower_order_final": st.booleans(),
        "euler_at_final": st.booleans(),
        "lambda_min_clipped": st.sampled_from([-float("inf"), -5.1]),
        "variance_type": st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large"]),
        "original_inference_steps": st.sampled_from([8, 50, 100]),
        "timestep_scaling": st.sampled_from([0.01, 10.0]),
    },
)
flow_changes = st.fixed_dictionaries(
    {},
    optional={
        "shift": st.sampled_from([0.5, 1, 3.0, 6.5]),
        "use_dynamic_shifting": st.booleans(),
        "time_shift_type": st.sampled_from(["exponential", "linear"]),
        "shift_terminal": st.sampled_from([None, 0.1]),
        "stochastic_sampling": st.booleans(),
        "num_train_timesteps": st.sampled_from([500, 1000]),
        "use_karras_sigmas": st.booleans(),
    },
)
strengths = st.one_of(st.just(1.0), st.floats(0.02, 1.0))


@dataclass(frozen=True)
class Moment:
    """What a run looks like at one step."""

    timestep: float
    network_input: Array
    x_next: Array
    x0: Array | None
    renoised: Array | None


def network(network_input: Array, timestep: float) -> Array:
    """A stand-in for the UNet that is nonlinear in the sample and depends on the timestep."""
    return np.tanh(network_input * np.float32(0.7)) + np.float32(timestep / 1000)


def clean_image() -> Array:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def first_step(name: str, count: int, strength: float) -> int:
    """The pipelines' two ways: those of flow matching round what is left out, the others what is run."""
    if name in FLOW:
        return int(max(count - min(count * strength, count), 0))
    return max(count - min(int(count * strength), count), 0)


def run_diffusers(
    name: str, config: dict[str, Any], count: int, strength: float, exact: bool = False, eta: float = 0.0, **ask: Any
) -> Iterator[Moment]:
    """Drive the diffusers class as its inpainting pipeline does; the start is a Moment too, at timestep -inf.

    `exact` has it do its sums in float64, as far as it can, on the tables it made in float32.
    """
    reference, overrides = REFERENCES[name]
    scheduler = reference.from_config(config, **overrides)
    generator = torch.Generator("cpu").manual_seed(SEED)
    if name.startswith("flow_euler") and not config.get("use_dynamic_shifting"):
        ask.pop("mu", None)
    with np.errstate(divide="ignore", invalid="ignore"):  # the spacing of one step is 0 / 0 in diffusers
        if "timesteps" in ask or ("sigmas" in ask and "mu" not in ask):
            scheduler.set_timesteps(**ask)
        else:
            scheduler.set_timesteps(count, **ask)
    if "timesteps" in ask:
        count = len(ask["timesteps"])
    elif "sigmas" in ask:
        count = len(ask["sigmas"]) - (name == "euler")
    t_start = first_step(name, count, strength) * scheduler.order
    timesteps = scheduler.timesteps[t_start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(t_start)
    noised = getattr(scheduler, "add_noise", lambda clean, noise, t: scheduler.scale_noise(clean, t, noise))
    dtype = torch.float32
    if exact:
        for table in ("alphas_cumprod", "final_alpha_cumprod", "sigmas"):
            if hasattr(scheduler, table):
                setattr(scheduler, table, getattr(scheduler, table).double())
        # The others cast samples to float32 themselves, and the ancestral one draws noise in the output's type.
        in_double = name.startswith(("ddim", "pndm", "heun")) and not eta
        dtype = torch.float64 if in_double else torch.float32
    clean = torch.from_numpy(clean_image()).to(dtype)
    noise = torch.randn(SHAPE, generator=generator).to(dtype)
    from_image = noised(clean, noise, timesteps[:1]).numpy()
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0) if strength == 1.0 else torch.from_numpy(from_image)
    yield Moment(-np.inf, from_image, x.numpy(), None, None)

    taken = inspect.signature(scheduler.step).parameters
    extra = {key: value for key, value in {"generator": generator, "eta": eta}.items() if key in taken}
    for i, timestep in enumerate(timesteps):
        scale = getattr(scheduler, "scale_model_input", lambda x, timestep: x)
        network_input = scale(x, timestep).numpy()
        output = torch.from_numpy(network(network_input.astype(np.float32), float(timestep))).to(dtype)
        result = scheduler.step(output, timestep, x, **extra)
        x, x0 = result.prev_sample, getattr(result, "pred_original_sample", None)
        renoised = None
        if i + 1 < len(timesteps):
            renoised = noised(clean, noise, torch.tensor([timesteps[i + 1]])).numpy()
        yield Moment(float(timestep), network_input, x.numpy(), None if x0 is None else x0.numpy(), renoised)


def run_table(table: Table, strength: float) -> Iterator[Moment]:
    """The same run from our table."""
    stream, clean = NoiseStream(SEED), clean_image()
    noise = stream.normal(SHAPE)
    from_image = table.start[0] * clean + table.start[1] * noise
    x = noise * table.init_noise_sigma if strength == 1.0 else from_image
    yield Moment(-np.inf, from_image, x, None, None)

    samples, outputs = table.history
    xs: tuple[Array, ...] = ()
    outs: tuple[Array, ...] = ()
    for step in table.steps:
        network_input = step.input_scale * x
        xs = (x, *xs[: samples - 1])
        outs = (network(network_input, step.timestep), *outs[: outputs - 1])
        x0 = estimate_x0(step, x, outs[0])
        x = advance(step, xs, outs, None if step.noise is None else stream.normal(SHAPE))
        assert x.dtype == np.float32
        yield Moment(step.timestep, network_input, x, x0, step.renoise[0] * clean + step.renoise[1] * noise)


def assert_close(ours: Array, theirs: Array, limit: float, what: str) -> None:
    error = float(np.abs(ours - theirs).max())
    assert error < limit, f"{what}: off by {error:.2e}, more than {limit:.2e}"


def assert_follows_diffusers(
    name: str, config: dict[str, Any], count: int, strength: float, exact: bool = False, **ask: Any
) -> None:
    table = tabulate(name, config, count, strength, **ask)
    ours = list(run_table(table, strength))
    theirs = list(run_diffusers(name, config, count, strength, exact, **ask))
    # Whole timesteps are equal; fractional ones stand on torch's float32 square root, an ulp off here and there.
    np.testing.assert_allclose([m.timestep for m in ours], [m.timestep for m in theirs], rtol=1e-5, atol=1e-5)
    # A run from a huge sigma (cosine betas, zero terminal SNR) carries its float32 rounding down to small ones.
    signal, sigma = table.start
    tolerance = max(1e-4, 2**-22 * sigma / max(signal, 2**-14))
    scale = 1.0
    for i, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        if not np.isfinite(reference.x_next).all():
            # diffusers' ancestral step takes the root of a difference that float32 can round below 0; ours does not.
            assert name.startswith("euler_ancestral")
            assert np.isfinite(mine.x_next).all()
            return
        # A step from a large sigma to a small one cancels digits in float32, so an error counts against both.
        scale = max(scale, float(np.abs(reference.x_next).max()))
        assert_close(mine.network_input, reference.network_input, tolerance * scale, f"network input of step {i}")
        assert_close(mine.x_next, reference.x_next, tolerance * scale, f"sample after step {i}")
        if reference.x0 is not None:
            assert mine.x0 is not None
            limit = tolerance * max(scale, float(np.abs(reference.x0).max()))
            assert_close(mine.x0, reference.x0, limit, f"x0 of step {i}")
        if reference.renoised is not None:
            assert mine.renoised is not None
            assert_close(mine.renoised, reference.renoised, tolerance * scale, f"clean image noised after step {i}")
        scale = max(1.0, float(np.abs(reference.x_next).max()))


def finite(run: Iterable[Moment]) -> bool:
    return all(bool(np.isfinite(moment.x_next).all()) for moment in run)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", DIFFUSION)
def test_checkpoint_files_are_followed(name: str, file: str) -> None:
    """Guards the defaults of each class for keys a real file lacks, or names for another class (`clip_sample`, say)."""
    # From the cosine schedule's sigmas of thousands diffusers' Heun loses the slope at small ones in float32.
    exact = name.startswith("heun")
    for count, strength in [(4, 1.0), (7, 1.0), (14, 1.0), (15, 1.0), (50, 1.0), (20, 0.6), (30, 0.999), (8, 0.13)]:
        assert_follows_diffusers(name, FILES[file], count, strength, exact)


@pytest.mark.parametrize("file", FLOW_FILES)
@pytest.mark.parametrize("name", FLOW)
def test_flow_matching_files_are_followed(name: str, file: str) -> None:
    """Guards the shift, which diffusers applies twice to its own sigmas, and its dependence on the picture's size."""
    ask = {"mu": 0.83} if "euler" in name else {}
    for count, strength in [(1, 1.0), (2, 1.0), (4, 1.0), (28, 1.0), (50, 1.0), (20, 0.6), (30, 0.999)]:
        assert_follows_diffusers(name, FLOW_FILES[file], count, strength, **ask)


@pytest.mark.parametrize("name", DIFFUSION)
@settings(max_examples=EXAMPLES)
@given(st.sampled_from(sorted(FILES)), changes, st.integers(1, 60), strengths)
def test_any_config_is_followed_or_refused_for_cause(
    name: str, file: str, change: dict[str, Any], count: int, strength: float
) -> None:
    """Guards every formula at any step count, spacing and prediction type; what we refuse must fail in diffusers."""
    config = {**FILES[file], **change}
    config["trained_betas"] = TRAINED_BETAS if config.get("trained_betas") else None
    if (
        name in RESPACED
        or config.get("timestep_type") == "continuous"
        or config.get("final_sigmas_type") == "sigma_min"
    ):
        # Zero terminal SNR makes sigmas that hang on the last bit of torch's square root, and these with them; the
        # smallest, whose 1 - alphas_cumprod[0] keeps three digits, most of all.
        config["rescale_betas_zero_snr"] = False
    if name.startswith("heun"):
        config["clip_sample"] = False  # refused: see test_what_is_not_served_is_refused_by_key
    if not name.startswith("ddpm"):
        config.pop("variance_type", None)
    assert_followed_or_fails(name, config, count, strength)


@pytest.mark.parametrize("name", FLOW)
@settings(max_examples=EXAMPLES)
@given(st.sampled_from(sorted(FLOW_FILES)), flow_changes, st.integers(1, 60), strengths, st.floats(0.3, 1.5))
def test_any_flow_matching_config_is_followed_or_refused_for_cause(
    name: str, file: str, change: dict[str, Any], count: int, strength: float, mu: float
) -> None:
    """Guards every way to shift the sigmas, at any step count."""
    ask = {"mu": mu} if "euler" in name else {}
    assert_followed_or_fails(name, {**FLOW_FILES[file], **change}, count, strength, **ask)


def assert_followed_or_fails(name: str, config: dict[str, Any], count: int, strength: float, **ask: Any) -> None:
    if first_step(name, count, strength) == count:
        with pytest.raises(ValueError, match=r"strength: .* leaves no step|num_inference_steps: "):
            tabulate(name, config, count, strength, **ask)
        return
    try:
        tabulate(name, config, count, strength, **ask)
    except ValueError as refusal:
        try:
            # Clipping would hide an infinity.
            theirs = list(run_diffusers(name, {**config, "clip_sample": False}, count, strength, **ask))
        except (ValueError, NotImplementedError):
            return
        if str(refusal) == "no step is left to run":
            assert len(theirs) == 1  # the start alone
        else:
            assert not finite(theirs)
    else:
        assert_follows_diffusers(name, config, count, strength, exact=True, **ask)


@pytest.mark.parametrize("name", [name for name in DIFFUSION if "eta" in SAMPLERS[name].takes])
@settings(max_examples=EXAMPLES)
@given(st.sampled_from(["sd15", "sd21", "zero_snr", "empty"]), st.integers(1, 50), strengths, st.floats(0.01, 1.0))
def test_eta_is_followed(name: str, file: str, count: int, strength: float, eta: float) -> None:
    """Guards the noise of DDIM between its ODE and DDPM, and TCD's gamma, whose timestep is floored in float32."""
    if int(count * strength) >= 1:
        config = {**FILES[file], "clip_sample": False}
        assert_follows_diffusers(name, config, count, strength, exact=True, eta=eta)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "timesteps" in SAMPLERS[name].takes])
@settings(max_examples=EXAMPLES)
@given(st.sets(st.integers(1, 999), min_size=2, max_size=20), strengths)
def test_own_timesteps_are_followed(name: str, chosen: set[int], strength: float) -> None:
    """Guards schedules made by hand ("align your steps"), which no spacing rule gives."""
    timesteps = sorted(chosen, reverse=True)
    if first_step(name, len(timesteps), strength) < len(timesteps):
        config = FLOW_FILES["sd3"] if name in FLOW else FILES["sdxl"]
        assert_follows_diffusers(name, config, 50, strength, timesteps=timesteps)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "sigmas" in SAMPLERS[name].takes])
@settings(max_examples=EXAMPLES)
@given(st.sets(st.integers(1, 999), min_size=2, max_size=20), strengths, st.booleans())
def test_own_sigmas_are_followed(name: str, chosen: set[int], strength: float, to_zero: bool) -> None:
    """Guards the last sigma: Euler's list has it, flow matching's has not."""
    flow = name in FLOW
    sigmas = [number / 1000 if flow else number / 70 for number in sorted(chosen, reverse=True)]
    if not flow and to_zero:
        sigmas.append(0.0)
    count = len(sigmas) - (not flow)
    if first_step(name, count, strength) < count:
        assert_follows_diffusers(name, FLOW_FILES["sd3"] if flow else FILES["sdxl"], 50, strength, sigmas=sigmas)


@pytest.mark.parametrize(
    ("name", "ask", "message"),
    [
        ("euler", {"eta": 0.5}, "eta: euler does not take it; ddim, ddim_sgm_uniform, tcd do"),
        ("pndm", {"timesteps": [900, 500]}, "timesteps: pndm does not take it"),
        ("euler_karras", {"timesteps": [900, 500]}, "timesteps: euler_karras does not take it"),
        ("heun", {"sigmas": [2.0, 1.0]}, "sigmas: heun does not take it; euler, flow_euler, flow_euler_karras, "),
        ("euler", {"timesteps": [900, 500], "sigmas": [2.0, 1.0]}, "sigmas: .*not both"),
        ("euler", {"timesteps": [900, 500], "timestep_spacing": "linspace"}, "timestep_spacing: .*not both"),
        ("dpmpp_2s", {"timestep_spacing": "linspace"}, "timestep_spacing: dpmpp_2s does not take it; ddim, "),
        ("euler_sgm_uniform", {"timestep_spacing": "linspace"}, "timestep_spacing: euler_sgm_uniform does not"),
        ("euler", {"timesteps": [500, 900]}, "timesteps: each must be below"),
        ("euler", {"timesteps": [500, 500]}, "timesteps: each must be below"),
        ("ddpm", {"timesteps": [1000, 500]}, "timesteps: must be from 0 to 999"),
        ("dpmpp_2m", {"timesteps": [500, -1]}, "timesteps: must be from 0 to 999"),
        ("euler", {"sigmas": [1.0, 2.0]}, "sigmas: each must be below"),
        ("euler", {"sigmas": [1.0, float("nan")]}, "sigmas: each must be below"),
        ("euler", {"sigmas": [1.0, -1.0]}, "sigmas: .* at least 0"),
        ("euler", {"sigmas": [float("inf"), 1.0]}, "sigmas"),
        ("flow_euler", {"sigmas": [1.5, 0.5]}, "sigmas: must be above 0 and at most 1"),
        ("flow_euler", {"sigmas": [0.5, 0.0]}, "sigmas: must be above 0 and at most 1"),
        ("flow_euler", {"timesteps": [500, 900]}, "timesteps: each must be below"),
        ("euler", {"timesteps": []}, "num_inference_steps: 0"),
        ("euler", {"sigmas": [1.0]}, "num_inference_steps: 0"),
    ],
)
def test_own_steps_that_make_no_schedule_are_refused(name: str, ask: dict[str, Any], message: str) -> None:
    """Guards against NaN, and against an option that is silently ignored."""
    with pytest.raises(ValueError, match=message):
        tabulate(name, {"beta_schedule": "scaled_linear"}, 20, **ask)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "timestep_spacing" in SAMPLERS[name].takes])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_requests_spacing_takes_the_configs_place(name: str, spacing: str) -> None:
    """Guards against an override that the name's own (Karras sigmas, say) undoes."""
    config = FILES["sdxl"]
    assert tabulate(name, config, 12, timestep_spacing=spacing) == tabulate(
        name, {**config, "timestep_spacing": spacing}, 12
    )
    other = tabulate(name, config, 12, timestep_spacing="linspace" if spacing != "linspace" else "leading")
    assert tabulate(name, config, 12, timestep_spacing=spacing) != other


@pytest.mark.parametrize("file", ["sd15", "dpm"])
def test_karras_timesteps_round_as_in_diffusers_at_every_step_count(file: str) -> None:
    """Guards the rounding of timesteps found between two logarithms: a wrong last bit is a wrong timestep."""
    reference, overrides = REFERENCES["dpmpp_2m_karras"]
    scheduler = reference.from_config(FILES[file], **overrides)
    for count in range(1, 201):
        scheduler.set_timesteps(count)
        steps = tabulate("dpmpp_2m_karras", FILES[file], count).steps
        assert [step.timestep for step in steps] == scheduler.timesteps.tolist(), count


@pytest.mark.parametrize("count", [61, 103, 121, 122])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("lcm", "tcd")])
def test_trailing_spacing_may_visit_one_step_more(name: str, count: int) -> None:
    """Guards diffusers' float arange, which for these counts ends with an extra timestep of -1."""
    config = {**FILES["sd15"], "timestep_spacing": "trailing"}
    assert_follows_diffusers(name, config, count, 1.0)
    assert_follows_diffusers(name, config, count, 0.5)


def test_clip_sample_defaults_to_true_for_ddim() -> None:
    """Guards against serving DDIM unclipped for a PNDM file that lacks the key: diffusers clips, and it shows."""
    clips = [step.clip for step in tabulate("ddim", FILES["sd15_without_clip_sample"], 10).steps]
    assert all(clip is not None and clip.limit == 1.0 for clip in clips)
    assert all(step.clip is None for step in tabulate("ddim", FILES["sd15"], 10).steps)


def test_noise_is_drawn_where_diffusers_draws() -> None:
    """Guards the alignment of the stream: the last ancestral draw weighs nothing and must still be made."""
    for name in SAMPLERS:
        draws = [step.noise for step in tabulate(name, FILES["sd15"], 5).steps]
        if name.startswith(("euler_ancestral", "dpmpp_2m_sde")):
            assert all(draw is not None and draw > 0 for draw in draws[:-1])
            assert draws[-1] == 0.0
        elif name.startswith("ddpm"):
            assert all(draw is not None and draw > 0 for draw in draws)
        elif name == "lcm":
            assert all(draw is not None and draw > 0 for draw in draws[:-1])
            assert draws[-1] is None
        else:
            assert draws == [None] * len(draws)


def test_kept_latents_are_clean_after_the_last_step() -> None:
    """Guards mask blending at the end: a final sigma above zero (`sigma_min`) must not noise the kept pixels."""
    for name in SAMPLERS:
        steps = tabulate(name, FILES["karras"], 6).steps
        assert steps[-1].renoise == (1.0, 0.0)
        assert all(step.renoise[1] > 0 for step in steps[:-1])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ddim", "thresholding", True),
        ("ddim", "beta_schedule", "sigmoid"),
        ("ddim", "timestep_spacing", "quadratic"),
        ("ddim", "prediction_type", "flow_prediction"),
        ("ddim", "num_train_timesteps", "1000"),
        ("ddim", "num_train_timesteps", 500.0),
        ("ddim", "num_train_timesteps", 1),
        ("ddim", "beta_end", None),
        ("ddim", "beta_start", -0.1),
        ("ddim", "trained_betas", "linear"),
        ("ddim", "clip_sample", "yes"),
        ("ddim", "_use_default_values", 1),
        ("pndm", "prediction_type", "sample"),
        ("euler", "interpolation_type", "log_linear"),
        ("euler", "final_sigmas_type", "tiny"),
        ("euler_ancestral", "prediction_type", "sample"),
        ("dpmpp_2m", "use_lu_lambdas", True),
        ("dpmpp_2m", "use_flow_sigmas", True),
        ("dpmpp_2m", "variance_type", "learned_range"),
        ("dpmpp_2s", "use_flow_sigmas", True),
        ("heun", "clip_sample", True),
        ("ddpm", "variance_type", "learned_range"),
        ("unipc", "predict_x0", False),
        ("unipc", "disable_corrector", [0]),
        ("lcm", "thresholding", True),
        ("lcm", "original_inference_steps", 2000),
        ("flow_euler", "invert_sigmas", True),
        ("flow_euler", "use_dynamic_shifting", True),
        ("dpmpp_2m_karras", "sigma_min", -1.0),
        ("dpmpp_2m_karras", "sigma_min", 1000.0),
    ],
)
def test_what_is_not_served_is_refused_by_key(name: str, key: str, value: object) -> None:
    """Guards against a picture made by another schedule than the one the checkpoint asks for."""
    with pytest.raises(UnsupportedScheduler, match=re.escape(f"{key}={value!r}")):
        tabulate(name, {**FILES["sd15"], key: value}, 20)


def test_betas_that_make_no_schedule_are_refused() -> None:
    """Guards against NaN levels: betas of another length than the timesteps, or outside [0, 1)."""
    for betas in ([0.1, 0.2], [1.5] * 1000, [float("nan")] * 1000):
        with pytest.raises(UnsupportedScheduler, match="betas"):
            tabulate("euler", {"trained_betas": betas}, 20)


def test_features_of_other_classes_are_ignored() -> None:
    """Guards against refusing a file for a key that the served class does not have."""
    config = {**FILES["sd15"], "use_lu_lambdas": True, "interpolation_type": "log_linear", "thresholding": True}
    assert tabulate("pndm", config, 20) == tabulate("pndm", FILES["sd15"], 20)


def test_zero_terminal_snr_is_refused_where_it_divides_by_zero() -> None:
    """Guards against NaN pictures: at a signal of 0 an epsilon prediction says nothing of the image."""
    with pytest.raises(UnsupportedScheduler, match="prediction_type='epsilon' divides by zero"):
        tabulate("ddim", {**FILES["zero_snr"], "prediction_type": "epsilon"}, 20)


@pytest.mark.parametrize(
    ("count", "strength", "message"),
    [
        (0, 1.0, "num_inference_steps: 0"),
        (-3, 1.0, "num_inference_steps: -3"),
        (1001, 1.0, "num_inference_steps"),
        (1000, 1.0, "num_inference_steps: 1000 with steps_offset 1"),
        (20, 0.0, "strength: 0.0 of 20 steps leaves no step"),
        (20, 0.049, "strength: 0.049"),
        (20, -1.0, "strength: -1.0"),
    ],
)
def test_impossible_requests_are_value_errors(count: int, strength: float, message: str) -> None:
    """Guards against an IndexError, or an empty plan that returns noise, for numbers a caller can send."""
    with pytest.raises(ValueError, match=message) as error:
        tabulate("ddim", FILES["sd15"], count, strength)
    assert not isinstance(error.value, UnsupportedScheduler)


def test_an_unknown_sampler_is_answered_with_the_names() -> None:
    """Guards the message that a caller with a misspelt scheduler gets."""
    with pytest.raises(ValueError, match=r"'dpm'.* ddim, .*, euler_karras, .*, unipc, .*, flow_heun"):
        tabulate("dpm", FILES["sd15"], 20)


def test_history_is_as_long_as_the_rows_need() -> None:
    """Guards the ring buffers that the loop sizes by it: PLMS reads four steps back, its warm-up twelve."""
    assert tabulate("ddim", FILES["sd15"], 20).history == (1, 1)
    assert tabulate("dpmpp_2m", FILES["sd15"], 20).history == (2, 2)
    assert tabulate("pndm", FILES["sd15"], 20).history == (2, 5)
    assert tabulate("pndm", FILES["bare_pndm"], 20).history == (4, 13)


def test_a_step_reads_its_arguments_and_changes_none() -> None:
    """Guards the purity that lets rows of many requests share a batch; a row alone gives the bytes it gives in one."""
    step = tabulate("pndm", FILES["sd15"], 20).steps[8]
    rng = np.random.default_rng(1)
    batch = [rng.standard_normal((3, *SHAPE)).astype(np.float32) for _ in range(6)]
    before = [array.copy() for array in batch]
    together = advance(step, batch[:1], batch[1:], None)
    alone = [advance(step, [batch[0][i]], [array[i] for array in batch[1:]], None) for i in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone))
    for array, copy in zip(batch, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_same_request_gives_the_same_plan() -> None:
    """Guards against state between plans, and against rows that cannot be compared or hashed."""
    for name in SAMPLERS:
        assert hash(tabulate(name, FILES["sd15"], 20)) == hash(tabulate(name, dict(FILES["sd15"]), 20))
