"""The networks of a bundle as torch modules with the inputs and outputs of docs/bundle.md.

Each casts its float32 inputs to the precision of its weights and its output back, so that how a bundle is called does
not depend on how it was exported.
"""
