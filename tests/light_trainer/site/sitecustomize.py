"""Read by every Python that starts with this folder on its path; does something for trainers only."""

import sys

if sys.orig_argv[1:4] == ["-m", "tunewright.cli.main", "train"]:
    from tunewright.engines import registry

    registry.ENGINES["torch"] = "light_trainer"
