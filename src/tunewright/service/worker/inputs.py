"""Lay out the folder of a job on this machine: its data, what it starts from, and its run file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tunewright.service.schemas.lease import InputFile, Lease, StoredFileModel
from tunewright.service.worker.transfer import Transfer

RUN = "run"
RUN_FILE = "job.yaml"
START = "start"
_STEP = re.compile(r"step-(\d+)")


def fetch_inputs(lease: Lease, folder: Path, transfer: Transfer) -> None:
    """Fetch the data files of a job. Raises LeaseLost, OSError and ServiceError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in (("training", lease.training), ("validation", lease.validation)):
        if file is not None:
            stored = StoredFileModel(path=data_name(name, file), sha256=file.sha256, bytes=file.bytes)
            transfer.fetch_file(stored, folder / stored.path)


def fetch_start(lease: Lease, folder: Path, transfer: Transfer) -> None:
    """Fetch the adapter to start from, and the newest state unless this machine's own is as new."""
    if lease.start_from and not (folder / START).exists():
        transfer.fetch(lease.start_from, folder / START)
    run = folder / RUN
    if lease.state and newest_checkpoint(run) < lease.state_step:
        transfer.fetch(lease.state, run)
    elif not lease.state and run.exists() and not (run / "config.yaml").exists():
        # An attempt that ended before it wrote its settings leaves nothing to go on with.
        shutil.rmtree(run)


def newest_checkpoint(run: Path) -> int:
    """The step of the newest checkpoint in a run folder; -1 when there is none."""
    found = [match for path in run.glob("checkpoints/*/manifest.json") if (match := _STEP.search(str(path)))]
    return max((int(match[1]) for match in found), default=-1)


def write_run_file(lease: Lease, folder: Path) -> Path:
    """Write the settings of the job with the paths of this machine. JSON is YAML too."""
    settings: dict[str, Any] = json.loads(json.dumps(lease.settings))
    data = settings["data"]
    format_ = data.pop("format")
    data["train"] = [{"path": data_name("training", lease.training), "format": format_}]
    data["eval"] = data_name("validation", lease.validation) if lease.validation else 0
    if lease.start_from:
        settings["adapter"]["start_from"] = START
    path = folder / RUN_FILE
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return path


def data_name(use: str, file: InputFile) -> str:
    """The name of a data file in the job's folder, whatever its owner called it."""
    return f"{use}{file.kind}"
