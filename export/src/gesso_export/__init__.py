"""gesso-export: a diffusers checkpoint in, a verified gesso bundle (ONNX) out."""

__version__ = "0.1.0"
