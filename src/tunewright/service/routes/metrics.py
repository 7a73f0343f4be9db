"""GET /metrics: what Prometheus reads. It tells of all projects, so that it needs a key of its own scope."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tunewright.service.context import ServiceArg, metrics_key
from tunewright.service.metrics import render_metrics
from tunewright.service.records import KeyRecord

router = APIRouter(tags=["Health"])


@router.get("/metrics", response_class=Response)
def metrics(service: ServiceArg, _key: Annotated[KeyRecord, Depends(metrics_key)]) -> Response:
    """Queue, leases, workers, requests, disk and this process in Prometheus' text format."""
    return Response(render_metrics(service), media_type=CONTENT_TYPE_LATEST)
