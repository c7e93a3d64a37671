"""The models that Triton loads; the only code that knows its Python API."""
