"""Training objectives, one idea a file; the closed union of their configs and `build_loss`.

Importing this package loads no torch: `medvlp.losses.objectives` does.
"""
