"""What a model is and may be asked: its bundle, the table of request parameters, and tensors read by it."""
