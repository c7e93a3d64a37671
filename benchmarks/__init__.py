"""The programs behind the published numbers, and what they share (harness/): `python -m benchmarks` lists them."""
