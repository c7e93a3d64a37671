"""What `gesso-export inspect` says of a checkpoint: what was found, where it is said, and why it would be refused."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gesso_export.checkpoint import claims
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.errors import CheckpointError
from gesso_export.examination import Examination, Stored, abridged, examine, examine_file, examine_part
from gesso_export.export import room
from gesso_export.precision import PRECISIONS
from gesso_export.single_file.convert import borrowed
from gesso_export.single_file.detect import detect
from gesso_export.single_file.header import read
from gesso_export.single_file.vae import find_vae
from gesso_export.source import Wanted, as_asked, own_vae

_SAFE = "nothing was executed: JSON and the headers of safetensors files were read"


def inspect(wanted: Wanted) -> dict[str, Any]:
    """As a JSON object; `refused` has every reason for which an export would refuse the checkpoint."""
    return _described(wanted, survey(wanted))


def survey(wanted: Wanted, embeddings: Sequence[Embedding] = ()) -> Examination:
    """What is named, examined before anything is made of it; a single file by its header, so that it takes seconds."""
    found = Examination()
    try:
        wanted.check()
        look = _file if wanted.is_file else _directory
        return look(wanted, embeddings)
    except CheckpointError as error:
        found.refused.append(str(error))
        return found


def _file(wanted: Wanted, embeddings: Sequence[Embedding]) -> Examination:
    header = read(wanted.path)
    said = claims.of_file(header.shapes, header.metadata, wanted.path)
    vae = wanted.vae is not None
    layout = detect(header.shapes, wanted.prediction_type, turbo=wanted.turbo, claims=said, vae=vae)
    found = examine_file(wanted.path, header, layout, said)
    assert found.checkpoint is not None, "it was made there"
    others = found.attempt(lambda: borrowed(layout, wanted.base)) or {}
    if wanted.vae is not None:
        others["vae"] = _vae(found, wanted.vae, layout.vae_config)
    checkpoint = as_asked(found.checkpoint.adding(others), wanted)
    if found.refused:
        found.checkpoint = checkpoint
        return found
    return examine(checkpoint, embeddings, found)


def _directory(wanted: Wanted, embeddings: Sequence[Embedding]) -> Examination:
    checkpoint, found = as_asked(wanted.directory(), wanted), Examination()
    if wanted.vae is not None:
        checkpoint = checkpoint.adding({"vae": _vae(found, wanted.vae, own_vae(checkpoint))})
    return examine(checkpoint, embeddings, found)


def _vae(found: Examination, path: Path, config: Mapping[str, Any]) -> Component:
    """That of --vae, by its header alone if it is a file."""
    vae = find_vae(path, config)
    return vae if isinstance(vae, Component) else examine_part(found, vae, read(path), path)


def _described(wanted: Wanted, found: Examination) -> dict[str, Any]:
    model, checkpoint = found.model, found.checkpoint
    report: dict[str, Any] = {
        "checkpoint": wanted.source,
        "form": "single file" if wanted.is_file else "directory" if wanted.path.is_dir() else "hub id",
        "revision": checkpoint.revision if checkpoint else wanted.revision,
        "pipeline": checkpoint.pipeline if checkpoint else None,
        "family": model.family if model else None,
        "native_inpainting": model.native_inpainting if model else None,
        "native_size": model.size.native if model else None,
        "prediction_type": _prediction(wanted, found),
        "networks": {name: _network(stored) for name, stored in found.stored.items()},
        "tokenizers": {
            source.component.name: {
                "class": source.component.class_name,
                "max_length": source.max_length,
                "rows": source.vocabulary,
            }
            for source in (model.tokenizers.values() if model else ())
        },
        "vae": vars(model.vae) if model else None,
        "scheduler": checkpoint.components["scheduler"].class_name if checkpoint and model else None,
        "exports": _exports(found),
        "left_out": found.left_out,
        "safety": _SAFE,
        "refused": found.refused,
    }
    return report


def _exports(found: Examination) -> dict[str, Any] | None:
    """What an export would write, and the bytes that it takes in each precision; None when it would write nothing."""
    model = found.model
    if model is None or found.refused:
        return None
    sizes = {}
    for precision in PRECISIONS:
        with contextlib.suppress(CheckpointError):  # not for this family
            sizes[precision] = room(found, precision)
    return {"networks": [network.name for network in model.networks], "bytes": sizes}


def _prediction(wanted: Wanted, found: Examination) -> dict[str, Any]:
    said = [{"value": claim.value, "source": claim.source} for claim in found.claims.prediction]
    if wanted.prediction_type is not None:
        said.insert(0, {"value": wanted.prediction_type, "source": "--prediction-type"})
    config = found.model.scheduler.config if found.model else {}
    flow = found.model is not None and found.model.family == "flux"
    value = "velocity" if flow else config.get("prediction_type", claims.EPSILON) if found.model else None
    return {"value": value, "sources": said}


def _network(stored: Stored) -> dict[str, Any]:
    return {
        "class": stored.class_name,
        "files": [file.name for file in stored.files],
        "parameters": stored.parameters,
        "dtypes": list(stored.dtypes),
        **({} if stored.layers is None else {"layers": stored.layers}),
    }


def table(report: Mapping[str, Any]) -> str:
    """The same, to be read by people."""
    prediction, vae, exports = report["prediction_type"], report["vae"], report["exports"]
    sources = "; ".join(f"{said['source']} says {said['value']}" for said in prediction["sources"])
    sizes = [f"{size / 1e6:,.0f} MB in {name}" for name, size in exports["bytes"].items()] if exports else []
    inpainting = {None: None, True: "native", False: "by blending latents"}[report["native_inpainting"]]
    rows = [
        ("checkpoint", f"{report['checkpoint']} ({report['form']})"),
        ("revision", report["revision"]),
        ("family", report["family"]),
        ("pipeline", report["pipeline"]),
        ("inpainting", inpainting),
        ("size", f"{report['native_size']} px native" if report["native_size"] else None),
        ("predicts", " ".join(filter(None, (prediction["value"], f"({sources or 'no source says it'})")))),
        ("scheduler", report["scheduler"]),
        ("vae", f"{vae['factor']} px per latent, {vae['latent_channels']} channels" if vae else None),
        ("exports", f"{', '.join(exports['networks'])}: {', '.join(sizes)}" if exports else None),
    ]
    lines = [f"{title:12} {text}" for title, text in rows if text]
    if report["networks"]:
        lines += ["", f"{'network':16} {'class':28} {'stored as':10} {'parameters':>14} {'layers':>6}  files"]
    for name, network in report["networks"].items():
        dtypes, layers = "+".join(network["dtypes"]), network.get("layers", "")
        numbers = f"{network['parameters']:>14,} {layers:>6}"
        lines.append(f"{name:16} {network['class']:28} {dtypes:10} {numbers}  {abridged(network['files'])}")
    for name, tokens in report["tokenizers"].items():
        lines.append(f"{name:16} {tokens['class']:28} {tokens['max_length']} tokens of {tokens['rows']:,}")
    lines.append("")
    if report["left_out"]:
        lines.append(f"left out: {abridged(report['left_out'])}")
    lines.append(report["safety"])
    return "\n".join(lines + [f"refused: {reason}" for reason in report["refused"]])
