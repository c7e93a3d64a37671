"""gesso-export: a diffusers checkpoint in, a verified gesso bundle (ONNX) out."""

import os

__version__ = "0.1.0"

# Before they are imported: ONNX Runtime would send events to its maker and write a device's id into the user's cache,
# and the hub's client would tell the hub what it runs in.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
