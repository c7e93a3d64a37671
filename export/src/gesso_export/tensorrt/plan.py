"""A spec to a serialised plan, by Polygraphy and TensorRT. Runs in the child process only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gesso_export.errors import BuildError, first_line
from gesso_export.tensorrt.api import BuilderConfig, NetworkDefinition, TensorRT
from gesso_export.tensorrt.spec import Spec

Emit = Callable[[Mapping[str, Any]], None]


def build(onnx: Path, spec: Spec, timing_cache: Path, emit: Emit, trt: TensorRT, polygraphy: Any) -> bytes:
    """The plan of the graph `onnx`; progress goes to `emit`.

    timing_cache: read if it is there, and written. trt, polygraphy: the modules `tensorrt` and
    `polygraphy.backend.trt`. Raises BuildError with what TensorRT says.
    """
    try:
        builder, network, parser = polygraphy.NetworkFromOnnxPath(str(onnx), strongly_typed=True)()
        _check_ports(network, spec)
        config = polygraphy.PostprocessConfig(
            polygraphy.CreateConfig(**config_options(spec, timing_cache, emit, trt, polygraphy)),
            lambda _builder, _network, made: _set_flags(made, spec, trt),
        )
        plan = polygraphy.EngineBytesFromNetwork(
            (builder, network, parser), config, save_timing_cache=str(timing_cache)
        )()
    except BuildError:
        raise
    except Exception as error:  # Polygraphy's own, which hide TensorRT's words in the log
        raise BuildError(f"{spec.network}: TensorRT cannot build it: {first_line(error)}; see the log") from error
    return bytes(plan)


def config_options(spec: Spec, timing_cache: Path, emit: Emit, trt: TensorRT, polygraphy: Any) -> dict[str, Any]:
    """The arguments of Polygraphy's CreateConfig. No precision is among them: it is in the graph."""
    profiles = []
    for profile in spec.profiles:
        made = polygraphy.Profile()
        for name, shapes in profile.shapes.items():
            made.add(name, min=shapes.min, opt=shapes.opt, max=shapes.max)
        profiles.append(made)
    options: dict[str, Any] = {
        "profiles": profiles,
        "tf32": False,  # a float32 network is asked for because float32 is wanted
        "refittable": spec.options.refittable,
        "weight_streaming": spec.options.weight_streaming,
        "builder_optimization_level": spec.options.optimization_level,
        "progress_monitor": monitor(emit, trt),
    }
    if timing_cache.is_file():
        options["load_timing_cache"] = str(timing_cache)
    if spec.options.workspace_mib:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: spec.options.workspace_mib * 2**20}
    return options


def monitor(emit: Emit, trt: TensorRT) -> Any:
    """TensorRT's progress as events. The builder stops when nobody listens any more."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()  # or TensorRT's own part is never made

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            _send({"event": "phase", "phase": phase_name, "parent": parent_phase, "steps": num_steps})

        def step_complete(self, phase_name: str, step: int) -> bool:
            return _send({"event": "step", "phase": phase_name, "step": step})

        def phase_finish(self, phase_name: str) -> None:
            _send({"event": "end", "phase": phase_name})

    def _send(event: Mapping[str, Any]) -> bool:
        try:
            emit(event)
        except OSError:  # the parent is gone; an exception must not cross TensorRT
            return False
        return True

    return Monitor()


def _set_flags(config: BuilderConfig, spec: Spec, trt: TensorRT) -> None:
    if spec.options.row_independence:
        flag = getattr(trt.BuilderFlag, "DISTRIBUTIVE_INDEPENDENCE", None)
        if flag is None:
            raise BuildError(f"TensorRT {trt.__version__} cannot keep rows equal; see --no-row-independence")
        config.set_flag(flag)


def _check_ports(network: NetworkDefinition, spec: Spec) -> None:
    """The parser drops inputs that nothing uses, and names are all that the runtime has to go by."""
    found = {network.get_input(index).name for index in range(network.num_inputs)}
    wanted = set(spec.profiles[0].shapes)
    if found != wanted:
        raise BuildError(f"{spec.network}: TensorRT sees the inputs {sorted(found)}, not {sorted(wanted)}")
