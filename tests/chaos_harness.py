"""Kill a run again and again at random moments, go on each time, and compare it with one left alone.

`run_chaos` trains the same configuration twice. A train process is forked from a server that has imported
everything, which saves seconds an attempt; some attempts are fresh interpreters. Both run the real command
line and are ended by a real SIGKILL.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attempts import Attempt, start_forked, start_fresh
from tunewright.checkpoint.store import CheckpointStore
from tunewright.errors import CheckpointError
from tunewright.trackers.jsonl import read_events

SAVE_EVERY = 3
EVALUATE_EVERY = 4
STEPS_AN_EPOCH = 6
STEPS_A_KILL = 3
ROWS = 40

# What ten kills are aimed at, in random order; see _is_at. `epoch` is the last step before an export.
AIMS = ("start-up", "step", "step", "save", "save", "save", "evaluation", "epoch", "export", "any time")
FRESH_EACH = 10


@dataclass(slots=True)
class ChaosResult:
    """landed: kills by where they hit, from what was left behind. replayed_steps: steps that were done more
    than once. faults: states that did not load, attempts that failed. differences: of losses, evaluations and
    files from the undisturbed run."""

    kills: int = 0
    fresh: int = 0
    steps: int = 0
    evaluations: int = 0
    replayed_steps: int = 0
    states_checked: int = 0
    landed: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    adapter_sha256: str = ""
    seconds: float = 0.0


def run_chaos(
    folder: Path,
    *,
    kills: int,
    seed: int,
    engine: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> ChaosResult:
    """Train undisturbed and killed below `folder`. The same seed aims the same; where a kill lands depends on
    the machine. Ends early at the first attempt that fails."""
    started = time.monotonic()
    result = ChaosResult()
    total_steps = STEPS_A_KILL * kills + 2 * STEPS_AN_EPOCH
    config = write_config(folder, total_steps, engine)
    whole, killed = folder / "whole", folder / "killed"
    usual = _train_undisturbed(config, whole)
    say(f"undisturbed: {total_steps} steps, start-up {usual['start-up']:.2f} s, step {usual['step']:.3f} s")
    chance = random.Random(seed)
    for number, aim in enumerate(_aims(kills, chance)):
        fresh = number % FRESH_EACH == FRESH_EACH // 2
        attempt = _start(config, killed, fresh=fresh)
        due = round(number * (total_steps - 2 * STEPS_AN_EPOCH) / kills)
        _kill_at(attempt, killed, aim, due, usual, chance)
        code = attempt.wait()
        if code == 0:
            break  # on a busy machine a run may be done before its kill comes
        if code != -9:
            result.faults.append(
                f"attempt {number + 1} ended with {code} before its kill: {attempt.last_words()}"
            )
            break
        result.kills += 1
        result.fresh += fresh
        where = _where(killed, attempt)
        result.landed[where] = result.landed.get(where, 0) + 1
        _check_states(killed, result)
        if result.kills % 10 == 0:
            say(f"{result.kills} kills, at step {_last_step(killed)} of {total_steps}")
    last = _start(config, killed, fresh=False)
    if code := last.wait():
        result.faults.append(f"the last attempt ended with {code}: {last.last_words()}")
    _compare(whole, killed, result)
    result.seconds = time.monotonic() - started
    return result


def write_config(folder: Path, total_steps: int, engine: str) -> Path:
    """Packing, dropout, accumulation, shuffled epochs, evaluation, exports and many saves in a small run."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"instruction": f"What is {a} plus {b}?" * (1 + b % 2), "input": "", "output": f"It is {a + b}."}
        for a in range(8)
        for b in range(ROWS // 8)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    settings = {
        "engine": engine,
        "model": "builtin:tiny",
        "device": "cpu",
        "adapter": {"rank": 4, "dropout": 0.1, "targets": ["q_proj", "down_proj"]},
        "data": {"train": "rows.json", "eval": 0.1, "seq_len": 160, "packing": True},
        "train": {
            "epochs": total_steps / STEPS_AN_EPOCH,
            "batch_size": 6,
            "micro_batch_size": 1,
            "learning_rate": 1e-3,
        },
        "checkpoint": {"every_steps": SAVE_EVERY, "keep": 3, "export_every": "epoch"},
        "evaluate": {"every_steps": EVALUATE_EVERY},
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(settings, indent=1))
    return path


def _aims(kills: int, chance: random.Random) -> Iterator[str]:
    for start in range(0, kills, len(AIMS)):
        ten = chance.sample(AIMS, len(AIMS))
        yield from ten[: kills - start]


def _start(config: Path, run: Path, *, fresh: bool) -> Attempt:
    started_before = (run / "config.yaml").exists() or (run / "events.jsonl").exists()
    arguments = ["train", str(config), "--out", str(run), *(["--resume"] if started_before else [])]
    return (start_fresh if fresh else start_forked)(arguments, run.with_name(f"{run.name}-scratch"))


def _train_undisturbed(config: Path, run: Path) -> dict[str, float]:
    """Seconds that each part of a run takes here, to aim with."""
    attempt = _start(config, run, fresh=False)
    tail = Tail(run)
    while attempt.code() is None and not tail.news():
        time.sleep(0.002)
    startup = time.monotonic() - attempt.started
    if code := attempt.wait():
        raise RuntimeError(f"the undisturbed run ended with {code}: {attempt.last_words()}")
    events = list(read_events(run / "events.jsonl"))

    def usual(type: str, key: str) -> float:
        values = sorted(event[key] for event in events if event["type"] == type)
        return values[len(values) // 2]

    return {
        "start-up": startup,
        "step": usual("step", "step_seconds"),
        "save": usual("checkpoint", "seconds"),
        "evaluation": usual("evaluation", "seconds") / 2,
        "epoch": usual("export", "seconds"),
        "export": usual("export", "seconds"),
        "any time": startup + 4 * usual("step", "step_seconds"),
    }


class Tail:
    """New whole lines of a run's events.jsonl since the last look."""

    def __init__(self, run: Path) -> None:
        self._path = run / "events.jsonl"
        self._read = self._path.stat().st_size if self._path.exists() else 0

    def news(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            # An attempt cuts a torn last line off; then the file is shorter than it was.
            self._read = min(self._read, self._path.stat().st_size)
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + (1 if whole else 0)
        return [event for line in whole.splitlines() if (event := _parse(line))]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _kill_at(
    attempt: Attempt, run: Path, aim: str, due: int, usual: Mapping[str, float], chance: random.Random
) -> None:
    """Wait until the run, at step `due` or later, does what is aimed at; kill it some time within that."""
    delay = chance.random()
    if aim in ("start-up", "any time"):
        time.sleep(delay * usual[aim] + (attempt.import_seconds if delay > 0.2 else 0))
        attempt.kill()
        return
    tail = Tail(run)
    step = 0
    while attempt.code() is None:
        step = max([step, *(event["step"] for event in tail.news() if event["type"] == "step")])
        if step >= due and _is_at(run, attempt.pid, aim, step):
            time.sleep(delay * usual[aim])
            break
        time.sleep(0.0005)
    attempt.kill()


def _is_at(run: Path, pid: int, aim: str, step: int) -> bool:
    """Whether the run, whose last finished step is `step`, does now what is aimed at. Steps come to the log
    one late, but at a mark all are there."""
    if aim == "save":
        return _works_in(run / "checkpoints", pid)
    if aim == "export":
        return _works_in(run / "exports", pid)
    if aim == "evaluation":
        return step > 0 and step % EVALUATE_EVERY == 0
    if aim == "epoch":
        return step > 0 and step % STEPS_AN_EPOCH == 0
    return step > 0


def _works_in(folder: Path, pid: int) -> bool:
    """Whether a temporary folder of this process is there; those of killed ones may be too."""
    return any(folder.glob(f"tmp-*-{pid}"))


def _where(run: Path, attempt: Attempt) -> str:
    """Where a kill hit, from what it left."""
    if _works_in(run / "checkpoints", attempt.pid):
        return "inside a save"
    if _works_in(run / "exports", attempt.pid):
        return "inside an export"
    events = list(read_events(run / "events.jsonl")) if (run / "events.jsonl").exists() else []
    mine = [event for event in events if event["time"] >= attempt.started_at]
    if not mine:
        return "during start-up"
    last = max(event["step"] for event in mine)
    if mine[-1]["type"] == "step" and last % EVALUATE_EVERY == 0:
        return "inside an evaluation"
    if last > 0 and last % STEPS_AN_EPOCH == 0:
        return "at the end of an epoch"
    return "inside a step"


def _check_states(run: Path, result: ChaosResult) -> None:
    """Every checkpoint that a kill leaves must load; none of them may need passing over."""
    store = CheckpointStore(run / "checkpoints", keep=3, keep_best=True)
    for step in store.steps():
        try:
            store.load(store.folder / f"step-{step:06d}")
        except CheckpointError as error:
            result.faults.append(f"after kill {result.kills}: {error}")
    result.states_checked += 1


def _last_step(run: Path) -> int:
    return max((event["step"] for event in read_events(run / "events.jsonl")), default=0)


def _compare(whole: Path, killed: Path, result: ChaosResult) -> None:
    for type, keys in (
        ("step", ("loss", "gradient_norm", "learning_rate", "epoch", "loss_tokens", "token_accuracy")),
        ("evaluation", ("valid_loss", "valid_token_accuracy", "epoch")),
    ):
        expected, got = _newest(whole, type, keys), _newest(killed, type, keys)
        result.differences += [
            f"{type} {step}: {got.get(step)} instead of {expected.get(step)}"
            for step in sorted(expected.keys() | got.keys())
            if expected.get(step) != got.get(step)
        ]
        if type == "step":
            result.steps = len(expected)
            result.replayed_steps = sum(
                e["type"] == "step" for e in read_events(killed / "events.jsonl")
            ) - len(got)
        else:
            result.evaluations = len(expected)
    ours, theirs = _hashes(whole), _hashes(killed)
    result.adapter_sha256 = ours.get("exports/final/adapter_model.safetensors", "")
    result.differences += [
        f"{name}: sha256 {theirs.get(name)} instead of {ours.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _newest(run: Path, type: str, keys: tuple[str, ...]) -> dict[int, tuple[Any, ...]]:
    """Figures by step, of the highest attempt of each: the log is in order of attempts."""
    return {
        event["step"]: tuple(event[key] for key in keys)
        for event in read_events(run / "events.jsonl")
        if event["type"] == type
    }


def _hashes(run: Path) -> dict[str, str]:
    """Every array file that is there at the end: exports and checkpoints."""
    files = [*run.glob("exports/*/*.safetensors"), *run.glob("checkpoints/*/*.safetensors")]
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.parent.name.startswith(("tmp-", "old-"))
    }
