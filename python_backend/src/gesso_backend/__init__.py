"""gesso's engine: what turns a request into a picture inside NVIDIA Triton, with no torch and no diffusers."""

__version__ = "0.1.0"
