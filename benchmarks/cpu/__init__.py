"""What the CPU can do, and what the UNet gets out of it."""
