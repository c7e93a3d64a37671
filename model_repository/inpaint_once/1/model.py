from gesso_backend.triton.once import InpaintOnceModel as TritonPythonModel  # noqa: F401
