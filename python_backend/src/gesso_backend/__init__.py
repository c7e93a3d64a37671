"""gesso's engine: what turns a request into a picture inside NVIDIA Triton, with no torch and no diffusers."""

import os

__version__ = "0.1.0"

# ONNX Runtime would look up its maker's host, send events there and write a device's id into the user's cache. It
# decides when it is first imported, for good; Triton and its models inherit the environment of gesso-serve.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
