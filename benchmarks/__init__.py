"""The programs behind the published numbers, and what they share (harness/): `python -m benchmarks` lists them."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of all that a benchmark starts
