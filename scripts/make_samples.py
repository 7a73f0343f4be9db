"""Write the bundled sample set of `tunewright demo`: `python scripts/make_samples.py`."""

from __future__ import annotations

from tunewright.assets.date_task import SAMPLE_ROWS, SAMPLE_SEED, date_rows
from tunewright.assets.files import DATE_SAMPLES
from tunewright.assets.words import message_line
from tunewright.files import write_file


def main() -> None:
    """Replace the file; the same seed gives the same bytes."""
    DATE_SAMPLES.parent.mkdir(exist_ok=True)
    lines = (message_line(prompt, answer) for prompt, answer in date_rows(SAMPLE_SEED, SAMPLE_ROWS))
    write_file(DATE_SAMPLES, (line.encode() for line in lines))


if __name__ == "__main__":
    main()
