"""The stages that rules run, each a program: `python -m stages.NAME`."""

import gc

# What importing PyTorch and diffusers makes stays. By default it is searched for garbage at every
# 700 new objects, which is about a tenth of the time until a stage begins to work.
gc.set_threshold(10_000)
