"""What happened to every row before step 1, as one frozen value for people, data_report.json and the API.

Every row looked at is accounted for: rows_checked = rows_kept + rows_cut + rows_split + rows_dropped +
rows_bad. That is every row read, except for indexed data, whose other rows are checked when their turn comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunewright.files import write_json
from tunewright.types import Example, SourceRef

LINES_LISTED = 20
"""Places listed per finding; the count is always exact."""

Severity = Literal["error", "warning", "note"]
Loading = Literal["memory", "indexed", "piped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing found in the data. `where` lists the first places, `first` explains the first."""

    code: str
    severity: Severity
    what: str
    count: int
    where: tuple[str, ...]
    first: str

    def places(self) -> str:
        """The first places in short: each file once with its lines, and how many more there are."""
        lines: dict[str, list[str]] = {}
        for place in self.where:
            path, _, line = place.rpartition(":")
            lines.setdefault(path or line, []).append(line if path else "")
        text = "; ".join(f"{path}: {', '.join(found)}" if found[0] else path for path, found in lines.items())
        more = self.count - len(self.where)
        return f"{text} … and {more} more" if more > 0 else text


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One file or folder: the format it was read as and how that was found, its use and its rows. rows_used:
    rows that can be trained on; None where not all were checked."""

    path: str
    format: str
    found: str
    use: Literal["train", "eval"]
    weight: float
    rows_read: int
    rows_used: int | None


@dataclass(frozen=True, slots=True)
class LengthBucket:
    """Examples above the bucket before and of at most `up_to` tokens, before the length rule."""

    up_to: int
    examples: int


@dataclass(frozen=True, slots=True)
class DataReport:
    """Counts over the rows checked; rows_read, train_rows and eval_rows count all. Tokens and trained tokens
    count the examples that remain, train and eval. duplicate_rows: None where they were not looked for."""

    loading: Loading
    seq_len: int
    overlong: str
    bad_rows: str
    sources: tuple[SourceReport, ...]
    rows_read: int
    rows_checked: int
    rows_kept: int
    rows_cut: int
    rows_split: int
    rows_dropped: int
    rows_bad: int
    train_rows: int
    eval_rows: int
    examples: int
    tokens: int
    trained_tokens: int
    longest: int
    zero_label_rows: int
    missing_end_of_turn: int
    content_dropped: int
    duplicate_rows: int | None
    lengths: tuple[LengthBucket, ...]
    findings: tuple[Finding, ...]

    @property
    def trained_share(self) -> float:
        """Share of tokens that are labels with a weight above 0."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0

    @property
    def is_sampled(self) -> bool:
        """Whether rows are left that nobody has looked at."""
        return self.rows_checked < self.rows_read

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep the data from being trained on."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {"version": 1, **asdict(self), "trained_share": self.trained_share, "ok": not self.errors}

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, self.to_json())

    def text(self) -> str:
        """The report as plain lines."""
        lines = [f"{name}: {value}" for name, value in self.facts()]
        lines += [f"{bucket.examples:>9} examples up to {bucket.up_to} tokens" for bucket in self.lengths]
        for finding in self.findings:
            lines.append(f"{finding.severity}: {finding.what}: {finding.count} ({finding.places()})")
            lines.append(f"  {finding.first}")
        return "\n".join(lines)

    def facts(self) -> list[tuple[str, str]]:
        """The figures as name and value, in the order in which a person wants them."""
        sources = [
            (f"{s.use} source", f"{s.path} ({s.format}, {_rows_of(s)}, weight {s.weight:g})")
            for s in self.sources
        ]
        duplicates = "not looked for" if self.duplicate_rows is None else f"{self.duplicate_rows:,}"
        return [
            *sources,
            ("rows read", f"{self.rows_read:,}"),
            *([("rows checked", f"{self.rows_checked:,} of {self.rows_read:,}")] if self.is_sampled else []),
            ("rows kept", f"{self.rows_kept:,}"),
            (f"rows cut (above {self.seq_len} tokens)", f"{self.rows_cut:,}"),
            ("rows split", f"{self.rows_split:,}"),
            ("rows dropped", f"{self.rows_dropped:,}"),
            (f"rows with errors{', skipped' if self.bad_rows == 'skip' else ''}", f"{self.rows_bad:,}"),
            ("train / eval rows", f"{self.train_rows:,} / {self.eval_rows:,}"),
            ("examples", f"{self.examples:,}"),
            ("tokens", f"{self.tokens:,}"),
            ("trained tokens", f"{self.trained_tokens:,} ({self.trained_share:.1%})"),
            ("longest example", f"{self.longest:,} tokens"),
            ("rows without a trained token", f"{self.zero_label_rows:,}"),
            ("turns without an end-of-turn label", f"{self.missing_end_of_turn:,}"),
            ("rows with content dropped by the template", f"{self.content_dropped:,}"),
            ("exact duplicate rows", duplicates),
        ]


def _rows_of(source: SourceReport) -> str:
    used = f"{source.rows_used:,} of " if source.rows_used is not None else ""
    return f"{used}{source.rows_read:,} rows"


@dataclass(slots=True)
class _Open:
    severity: Severity
    what: str
    first: str
    count: int = 0
    where: list[str] = field(default_factory=list[str])


class Tally:
    """Collects findings and lengths while rows are prepared; `findings` and `buckets` freeze them."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._open: dict[str, _Open] = {}
        self._lengths: Counter[int] = Counter()
        self.longest = 0

    def add(
        self, code: str, severity: Severity, what: str, where: SourceRef | str, first: str, times: int = 1
    ) -> None:
        """Count a finding `times` at one place."""
        found = self._open.setdefault(code, _Open(severity, what, first))
        found.count += times
        if len(found.where) < LINES_LISTED:
            found.where.append(str(where))

    def count_of(self, code: str) -> int:
        """How often a finding was counted."""
        return self._open[code].count if code in self._open else 0

    def measure(self, examples: Iterable[Example]) -> None:
        """Take the lengths of rendered examples into the histogram."""
        for example in examples:
            self.longest = max(self.longest, len(example))
            self._lengths[_bucket(len(example))] += 1

    def to_json(self) -> dict[str, Any]:
        """All that was collected, as plain JSON values."""
        return {
            "outcomes": dict(self.outcomes),
            "open": {code: asdict(found) for code, found in self._open.items()},
            "lengths": {str(bound): count for bound, count in self._lengths.items()},
            "longest": self.longest,
        }

    def add_json(self, collected: Mapping[str, Any]) -> None:
        """Collect what to_json of another tally says, after what is here already."""
        self.outcomes.update(collected["outcomes"])
        self._lengths.update({int(bound): count for bound, count in collected["lengths"].items()})
        self.longest = max(self.longest, collected["longest"])
        for code, more in collected["open"].items():
            found = self._open.setdefault(code, _Open(more["severity"], more["what"], more["first"]))
            found.count += more["count"]
            found.where += more["where"][: LINES_LISTED - len(found.where)]

    def findings(self, *, are_skipped: bool = False) -> tuple[Finding, ...]:
        """All findings, errors first. are_skipped: bad rows are left out, which is a warning."""
        ranks = ("error", "warning", "note")
        found = [
            Finding(c, f.severity, f.what, f.count, tuple(f.where), f.first)
            if f.severity != "error" or not are_skipped
            else Finding(c, "warning", f"{f.what}, skipped", f.count, tuple(f.where), f.first)
            for c, f in self._open.items()
        ]
        return tuple(sorted(found, key=lambda finding: ranks.index(finding.severity)))

    def buckets(self) -> tuple[LengthBucket, ...]:
        """The length histogram from the shortest to the longest bucket in use, gaps as zeros."""
        if not self._lengths:
            return ()
        bounds = [1 << power for power in range(4, 40)]
        used = [bound for bound in bounds if min(self._lengths) <= bound <= max(self._lengths)]
        return tuple(LengthBucket(bound, self._lengths[bound]) for bound in used)


def count_tokens(examples: Iterable[Example]) -> tuple[int, int, int]:
    """Examples, tokens and labels with a weight above 0."""
    count = tokens = trained = 0
    for example in examples:
        count += 1
        tokens += len(example)
        trained += int(np.count_nonzero(example.weights_T))
    return count, tokens, trained


def _bucket(length: int) -> int:
    return max(16, 1 << max(length - 1, 0).bit_length())
