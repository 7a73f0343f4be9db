"""The NumPy engine under torch's name: a real `tunewright train` that starts in two seconds on a busy core.

With `site/` and this folder's parent on PYTHONPATH, `python -m tunewright.cli.main train` takes its numbers
from here; the loop, checkpoints, exports, events and signals are those of every run.
"""
