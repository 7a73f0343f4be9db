"""The text of `/metrics`: counts of this process, and the queue as the database has it at this moment.

Whatever is about jobs is read from the database at each scrape, so that it is right after a restart and equal
from every API process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from tunewright import __version__
from tunewright.service.context import Service
from tunewright.service.db.database import DatabaseFault
from tunewright.service.db.figures import ServiceFigures, read_figures
from tunewright.service.jobs import Status
from tunewright.service.meters import PREFIX


def render_metrics(service: Service) -> bytes:
    """Everything in Prometheus' text format."""
    now = CollectorRegistry()
    now.register(_Now(service))
    return generate_latest(service.traffic.meters.registry) + generate_latest(now)


class _Now(Collector):
    def __init__(self, service: Service) -> None:
        self.service = service

    def describe(self) -> Iterator[Metric]:
        """Nothing: otherwise registering alone would ask the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauges of this moment. A database that is away shows as tunewright_database_up 0."""
        yield _gauge("build_info", "Version of the server", {"version": __version__}, 1)
        disk = shutil.disk_usage(self.service.settings.home)
        yield _gauge("disk_free_bytes", "Free room on the disk of the home folder", {}, disk.free)
        yield _gauge("disk_total_bytes", "Size of the disk of the home folder", {}, disk.total)
        try:
            with self.service.database.read() as connection:
                found = read_figures(connection, self.service.settings.lease_seconds)
        except DatabaseFault:
            yield _gauge("database_up", "1 when the database answers", {}, 0)
            return
        yield _gauge("database_up", "1 when the database answers", {}, 1)
        yield from _of_jobs(found)
        yield _gauge("stored_bytes", "Bytes in the blob store, each content once", {}, found.stored_bytes)
        yield _gauge("workers", "Workers that hold a job or asked for one lately", {}, found.workers)


def _of_jobs(found: ServiceFigures) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(f"{PREFIX}_jobs", "Jobs by status", labels=["status"])
    for status in Status:
        jobs.add_metric([str(status)], found.jobs.get(str(status), 0))
    yield jobs
    seconds = SummaryMetricFamily(
        f"{PREFIX}_job_seconds", "From the start of a job to its end, by how it ended", labels=["status"]
    )
    for status, (count, total) in found.finished.items():
        seconds.add_metric([status], count_value=count, sum_value=total)
    yield seconds
    yield CounterMetricFamily(
        f"{PREFIX}_lost_attempts", "Attempts whose worker went silent", value=found.lost_attempts
    )
    yield _gauge("queue_wait_seconds", "Age of the job that waits longest", {}, found.longest_wait)
    yield _gauge("lease_age_seconds", "Since the quietest worker was heard", {}, found.lease_age)
    yield _gauge("leases", "Jobs that a worker holds", {}, found.leases)
    yield _gauge(
        "training_tokens_per_second", "Of all running jobs, at their last step", {}, found.tokens_per_second
    )


def _gauge(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
