from gesso_backend.triton_model import InpaintOnceModel as TritonPythonModel  # noqa: F401
