"""Hypothesis without a stopwatch (shared machines stall) and with the same examples in every run."""

from hypothesis import settings

settings.register_profile("ops", deadline=None, derandomize=True)
settings.load_profile("ops")
