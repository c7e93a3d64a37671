"""Checkpoints as one .safetensors file in the original layout of their makers, as on model-sharing sites.

What a file is shows in its header alone: the names and shapes of its tensors. `convert` writes what is in it as a
diffusers directory; no network is asked, for the configs are the published ones with the sizes of this file, and CLIP's
tokenizer, which no such file has, is OpenAI's. There is a module for each family, and one for each kind of network.
"""
