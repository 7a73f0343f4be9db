"""What `/metrics` counts of the requests of this process, and how a route is named there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector

PREFIX = "tunewright"
UNKNOWN_ROUTE = "none"
_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class Meters:
    """One server's registry, not the global one of the library: two servers in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            f"{PREFIX}_http_requests",
            "Requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_http_request_seconds",
            "Time until the end of the answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


def route_of(scope: Mapping[str, Any]) -> str:
    """The template of the route that a request came to, such as `/v1/files/{file_id}`.

    Ids never get in, so that callers cannot make series without end; a path that is no route of ours is
    `none`.
    """
    route = scope.get("route")
    template = getattr(route, "path_format", None)
    if template is None:
        return UNKNOWN_ROUTE
    values = {name: str(value) for name, value in scope.get("path_params", {}).items()}
    # The route of an included router knows its own end of the path only.
    end = template.format_map(values)
    path = str(scope["path"])
    return path[: len(path) - len(end)] + template if path.endswith(end) else template
