"""Trains the small inpainting model that gesso ships, on pictures it draws itself. Not part of any package."""
