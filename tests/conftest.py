"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing of its property, and a busy machine needs more than the 200 ms that
# Hypothesis allows by itself.
settings.register_profile("tunewright", deadline=None)
settings.load_profile("tunewright")
