"""Read manifests of older formats: one function a version, from each to the next.

To change the format: raise FORMAT_VERSION, add the step from the version before to MIGRATIONS, put a
checkpoint of that version into tests/unit/checkpoint/, and describe the change in
docs/concepts/checkpoint-format.md. A function here never changes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FORMAT_VERSION = 2

Body = Mapping[str, Any]


def migrate(body: Body) -> Body:
    """A manifest body of any version up to FORMAT_VERSION in today's form.

    body: checked against its own hash before; what comes back is never hashed. Raises KeyError for a version
    that never was.
    """
    version = body["format_version"]
    while version < FORMAT_VERSION:
        body = MIGRATIONS[version](body)
        version += 1
    return body


def _name_the_metric(body: Body) -> Body:
    """1 to 2: the metric was always the held-out loss, as a bare number."""
    value = body["metric"]
    return {**body, "metric": None if value is None else {"name": "valid_loss", "value": value}}


MIGRATIONS: Mapping[int, Callable[[Body], Body]] = {1: _name_the_metric}
