from gesso_backend.triton_model import InpaintModel as TritonPythonModel  # noqa: F401
