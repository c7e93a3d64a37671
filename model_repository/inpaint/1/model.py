from gesso_backend.triton.inpaint import InpaintModel as TritonPythonModel  # noqa: F401
