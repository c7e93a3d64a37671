"""Samplers as tables: `tabulate` writes the rows, `advance` applies one. See `table` for the contract.

Each sampler equals its diffusers class, made with `from_config` from the checkpoint's config, whatever class that
config is of. To add one: write its rows in a file of its own and name it in `ALGORITHMS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, SamplerArguments, UnsupportedScheduler
from gesso_backend.kinds.diffusion.samplers.config import stated
from gesso_backend.kinds.diffusion.samplers.consistency import lcm, tcd
from gesso_backend.kinds.diffusion.samplers.ddim import ddim
from gesso_backend.kinds.diffusion.samplers.ddpm import ddpm
from gesso_backend.kinds.diffusion.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s
from gesso_backend.kinds.diffusion.samplers.euler import euler, euler_ancestral, heun
from gesso_backend.kinds.diffusion.samplers.flow import flow_euler, flow_heun
from gesso_backend.kinds.diffusion.samplers.pndm import pndm
from gesso_backend.kinds.diffusion.samplers.table import Clip, Step, Table, advance, estimate_x0
from gesso_backend.kinds.diffusion.samplers.unipc import unipc

__all__ = [
    "ALGORITHMS",
    "SAMPLERS",
    "Clip",
    "InvalidSteps",
    "Sampler",
    "Step",
    "Table",
    "UnsupportedScheduler",
    "advance",
    "estimate_x0",
    "tabulate",
]

# What a spacing says in the config. "plain" is spaced as the config's `timestep_spacing` says, in no other way.
_SIGMA_KEYS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_PLAIN: Mapping[str, object] = dict.fromkeys(_SIGMA_KEYS, False)
_SPACINGS: Mapping[str, Mapping[str, object]] = {
    "plain": _PLAIN,
    "karras": {**_PLAIN, "use_karras_sigmas": True},
    "exponential": {**_PLAIN, "use_exponential_sigmas": True},
    "beta": {**_PLAIN, "use_beta_sigmas": True},
    "sgm_uniform": {**_PLAIN, "timestep_spacing": "trailing"},
}
_SIGMAS = ("karras", "exponential", "beta")
_SGM = ("sgm_uniform",)


@dataclass(frozen=True)
class Sampler:
    """One name: an algorithm and how its steps are spaced."""

    rows: Callable[[Mapping[str, object], SamplerArguments], Table]
    overrides: Mapping[str, object]  # keys of the scheduler config that the name decides
    takes: frozenset[str]  # of eta, timesteps, sigmas and timestep_spacing, what a request may say
    begin: Callable[[int, float], int]  # (num_inference_steps, strength) -> the first step to run


def _begin(steps: int, strength: float) -> int:
    """As diffusers' pipelines slice the steps: the whole number that is run is rounded down."""
    return steps - min(int(steps * strength), steps)


def _flow_begin(steps: int, strength: float) -> int:
    """As diffusers' pipelines for flow matching do: the number that is left out is rounded down."""
    return int(max(steps - min(steps * strength, steps), 0))


@dataclass(frozen=True)
class Algorithm:
    rows: Callable[[Mapping[str, object], SamplerArguments], Table]
    spacings: tuple[str, ...] = ()  # besides the plain one
    takes: tuple[str, ...] = ()
    spaces_sigmas: bool = False  # its spacings take a request's own sigmas, and space between their ends
    begin: Callable[[int, float], int] = _begin

    @property
    def taken(self) -> frozenset[str]:
        """What a request may say of its steps."""
        return frozenset({*self.takes, *(["timestep_spacing"] if "sgm_uniform" in self.spacings else [])})

    def named(self, name: str) -> dict[str, Sampler]:
        """Its samplers: `name`, and `name_spacing` for each other spacing."""
        samplers = {name: Sampler(self.rows, _SPACINGS["plain"], self.taken, self.begin)}
        for spacing in self.spacings:
            decided = {"timesteps", "timestep_spacing"} | (set() if self.spaces_sigmas else {"sigmas"})
            samplers[f"{name}_{spacing}"] = Sampler(self.rows, _SPACINGS[spacing], self.taken - decided, self.begin)
        return samplers


ALGORITHMS: Mapping[str, Algorithm] = {
    "ddim": Algorithm(ddim, _SGM, ("eta",)),
    "ddpm": Algorithm(ddpm, _SGM, ("timesteps",)),
    "pndm": Algorithm(pndm, _SGM),
    "euler": Algorithm(euler, _SIGMAS + _SGM, ("timesteps", "sigmas")),
    "euler_ancestral": Algorithm(euler_ancestral, _SGM),
    "heun": Algorithm(heun, _SIGMAS + _SGM, ("timesteps",)),
    "dpmpp_2m": Algorithm(dpmpp_2m, _SIGMAS + _SGM, ("timesteps",)),
    "dpmpp_2m_sde": Algorithm(dpmpp_2m_sde, _SIGMAS + _SGM, ("timesteps",)),
    "dpmpp_2s": Algorithm(dpmpp_2s, _SIGMAS, ("timesteps",)),
    "unipc": Algorithm(unipc, _SIGMAS + _SGM),
    "lcm": Algorithm(lcm, (), ("timesteps",)),
    "tcd": Algorithm(tcd, (), ("eta", "timesteps")),
    "flow_euler": Algorithm(flow_euler, _SIGMAS, ("timesteps", "sigmas"), spaces_sigmas=True, begin=_flow_begin),
    "flow_heun": Algorithm(flow_heun, begin=_flow_begin),
}

SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {name: sampler for base, algorithm in ALGORITHMS.items() for name, sampler in algorithm.named(base).items()}
)


def tabulate(
    name: str,
    config: Mapping[str, object],
    num_inference_steps: int | None,
    strength: float = 1.0,
    *,
    eta: float = 0.0,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    timestep_spacing: str | None = None,
    mu: float | None = None,
) -> Table:
    """The table of sampler `name` for a checkpoint's raw scheduler config.

    `strength` in (0, 1] is the share of the steps that is run, the last ones, as the diffusers pipelines slice them.
    A request's own `timesteps` (falling) or `sigmas` (falling; Euler's with the final one, flow matching's without)
    take the place of `num_inference_steps`; `timestep_spacing` that of the config's. `eta` is the share of DDPM's noise
    in DDIM, and TCD's gamma. `mu` is the shift of flow matching for the picture's size, read where the config has
    `use_dynamic_shifting`. PNDM runs a step more than it is asked for, or nine with its Runge-Kutta warm-up, as in
    diffusers; Heun runs two for each but the last.

    Raises InvalidSteps (a ValueError), naming the argument, for what the sampler does not take, for steps that cannot
    be spaced and a strength that leaves no step; UnsupportedScheduler (a ValueError too), naming the key, for a config
    that is not served; ValueError for an unknown name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    sampler = SAMPLERS[name]
    given = {"eta": eta or None, "timesteps": timesteps, "sigmas": sigmas, "timestep_spacing": timestep_spacing}
    for key, value in given.items():
        if value is not None and key not in sampler.takes:
            takers = ", ".join(other for other, each in SAMPLERS.items() if key in each.takes)
            raise InvalidSteps(key, f"{name} does not take it; {takers} do")
    instead = [key for key, value in given.items() if value is not None and key != "eta"]
    if len(instead) > 1:
        raise InvalidSteps(instead[-1], f"give {' or '.join(instead)}, not both")
    if timesteps is not None:
        num_inference_steps = len(timesteps)
    elif sigmas is not None:
        num_inference_steps = len(sigmas) - (sampler.rows is euler)
    if num_inference_steps is None or num_inference_steps < 1:
        raise InvalidSteps("num_inference_steps", f"{num_inference_steps} is not at least 1")
    begin = sampler.begin(num_inference_steps, strength)
    if begin >= num_inference_steps:
        enough = math.ceil(1e4 / num_inference_steps) / 1e4
        text = f"{strength} of {num_inference_steps} steps leaves no step to run; use at least {enough}"
        raise InvalidSteps("strength", text)
    arguments = SamplerArguments(
        num_inference_steps=num_inference_steps,
        begin=begin,
        eta=eta,
        timesteps=None if timesteps is None else tuple(timesteps),
        sigmas=None if sigmas is None else tuple(sigmas),
        mu=mu,
    )
    try:
        with np.errstate(divide="raise", invalid="raise"):
            spacing = {} if timestep_spacing is None else {"timestep_spacing": timestep_spacing}
            return sampler.rows({**stated(config), **spacing, **sampler.overrides}, arguments)
    except ArithmeticError as error:
        # For one, DDIM at a signal of 0: noise says nothing of the image there, and diffusers goes on with NaN.
        why = f"divides by zero with {name} and {num_inference_steps} steps"
        prediction_type = config.get("prediction_type", "epsilon")
        raise UnsupportedScheduler.because("prediction_type", prediction_type, why) from error
