"""Keys of a scheduler_config.json, read strictly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Self

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, UnsupportedScheduler


def stated(config: Mapping[str, object]) -> dict[str, object]:
    """What a raw config states itself.

    diffusers lists the keys that were not in the file it loaded, and forgets them when the class changes.
    """
    defaulted = config.get("_use_default_values") or ()
    if not isinstance(defaulted, list | tuple):
        raise UnsupportedScheduler.because("_use_default_values", defaulted)
    return {key: value for key, value in config.items() if key not in (*defaulted, "_use_default_values")}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of a scheduler_config.json; subclasses name those they read, and the values they serve."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    num_train_timesteps: int = 1000

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Read a config; raises UnsupportedScheduler naming the key of a value that cannot be served."""
        for key, served in cls.served.items():
            if key in config and config[key] not in served:
                raise UnsupportedScheduler.because(key, config[key])
        known = {field.name: field.default for field in fields(cls) if field.init}
        return cls(**{key: _typed(key, config[key], default) for key, default in known.items() if key in config})

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise UnsupportedScheduler.because("num_train_timesteps", self.num_train_timesteps)

    def given_timesteps(self, timesteps: Sequence[int]) -> list[int]:
        """A request's own timesteps. Raises InvalidSteps unless they fall and were trained."""
        if any(after >= before for before, after in pairwise(timesteps)):
            raise InvalidSteps("timesteps", "each must be below the one before it")
        if not 0 <= timesteps[-1] <= timesteps[0] < self.num_train_timesteps:
            raise InvalidSteps("timesteps", f"must be from 0 to {self.num_train_timesteps - 1}")
        return list(timesteps)


def _typed(key: str, value: object, default: object) -> Any:
    """`value` as the type of `default`; null is False for a flag, and no value where a number or a list is optional."""
    match default, value:
        case (bool(), bool() | None):
            return bool(value)
        case (tuple(), None):
            return ()
        case (tuple(), list() | tuple()) if all(isinstance(item, int | float) for item in value):
            return tuple(value)
        case (str(), str()) | (None, None):
            return value
        case (int(), int()) if not isinstance(default, bool) and not isinstance(value, bool):
            return value
        case (float() | None, float() | int()) if not isinstance(value, bool):
            return float(value)
    raise UnsupportedScheduler.because(key, value, "has the wrong type")
