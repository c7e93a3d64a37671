"""What a manifest says of whether the bundle was held against the checkpoint as diffusers reads it."""

from __future__ import annotations

from gesso_export.bundle.manifest import Bundle

KEY = "independent_check"  # of the manifest's `exporter`
UNVERIFIED = "not verified independently: "


def checked(bundle: Bundle) -> str:
    """What came of it."""
    return bundle.exporter.get(KEY, f"{UNVERIFIED}it was exported before there was such a check")


def unverified(bundle: Bundle) -> str | None:
    """That it was not, and why; None when it was."""
    text = checked(bundle)
    return text if text.startswith(UNVERIFIED) else None
