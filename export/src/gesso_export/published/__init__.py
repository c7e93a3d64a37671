"""The published models: their configs, and our networks held against them without weights."""
