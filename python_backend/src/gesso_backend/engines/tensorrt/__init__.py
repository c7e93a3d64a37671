"""TensorRT by its own Python API and cuda-python."""
