"""What a request says of its schedule, and how it is refused."""

from dataclasses import dataclass
from typing import Self


class UnsupportedScheduler(ValueError):
    """The checkpoint's scheduler config asks for what no table of ours expresses; the message names key and value."""

    @classmethod
    def because(cls, key: str, value: object, why: str = "is not served") -> Self:
        """The error that refuses `value` for `key`."""
        return cls(f"scheduler config: {key}={value!r} {why}")


class InvalidSteps(ValueError):
    """What a request says of its steps makes no schedule; `field` is the request's, and the message starts with it."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field, self.text = field, text


@dataclass(frozen=True, kw_only=True)
class SamplerArguments:
    """What a request says of its schedule; `tabulate` has checked that the sampler takes what is not None."""

    num_inference_steps: int
    begin: int = 0  # of these steps, the first to run
    eta: float = 0.0
    timesteps: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    mu: float | None = None  # flow matching: the shift for this resolution
