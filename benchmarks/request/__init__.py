"""One request at a time, beside diffusers."""
