"""Pictures and masks in numpy: canvas, compositing, seam. No model."""
