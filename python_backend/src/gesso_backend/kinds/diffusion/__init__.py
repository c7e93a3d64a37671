"""Diffusion: prompts, masks, samplers and the denoising loop."""
