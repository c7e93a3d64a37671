"""ONNX graphs: traced from torch, and rewritten."""
