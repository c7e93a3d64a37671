"""What was found of one model on one engine."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What is None did not run, and `notes` says why."""

    model: str
    engine: str
    kinds: dict[str, str] = field(default_factory=dict)  # what runs each network
    build_seconds: float | None = None  # of the TensorRT engines; 0 when they were there
    batch_sizes: list[int] = field(default_factory=list)  # those whose bytes agree, which are used
    step_ms: dict[int, float] = field(default_factory=dict)  # rows -> a denoiser call
    rows_equal: bool | None = None  # a row alone and the row in every batch, byte for byte
    lone_seconds: float | None = None  # a request alone
    overhead: float | None = None  # of its time, outside the engines, per time in them
    idle_between_steps: float | None = None  # of the time from first to last step, outside the denoiser's calls
    serial_per_second: float | None = None  # pictures, one request after another
    together_per_second: float | None = None  # pictures, TOGETHER requests at once
    batching_gain: float | None = None
    picture_equal_alone: bool | None = None  # a request alone and among the others, byte for byte
    difference: dict[str, float] = field(default_factory=dict)  # to the first engine's picture, of 255 levels
    served: bool | None = None  # the picture through Triton is that of the service in this process
    notes: list[str] = field(default_factory=list)
