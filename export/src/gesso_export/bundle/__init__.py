"""The bundle that is written: its manifest, axes, parameters and files (docs/bundle.md)."""
