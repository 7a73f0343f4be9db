"""A short `make service-chaos`: real processes are killed, frozen and cut off, and the history is judged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from service_chaos_harness import ChaosPlan, run_service_chaos
from service_takeover_run import run_takeovers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")


@pytest.mark.timeout(280)
def test_a_service_survives_faults(tmp_path: Path) -> None:
    plan = ChaosPlan(15, seed=1, clients=2, workers=2, light=0.02, pause=(0.0, 0.8))
    result = run_service_chaos(tmp_path, plan)
    assert result.violations == []
    assert sum(result.faults.values()) == 15
    assert result.jobs
    assert result.attempts > 0


@pytest.mark.slow
def test_jobs_of_killed_workers_are_taken_over_within_one_and_a_half_leases(tmp_path: Path) -> None:
    lease = 6.0
    found = run_takeovers(tmp_path, 3, lease)
    assert len(found) == 3
    assert all(t.calm and t.seconds <= t.most_seconds(lease) for t in found), found
