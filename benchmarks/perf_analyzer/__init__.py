"""gesso under NVIDIA's load generator, beside a diffusers pipeline in a Python model of Triton."""
