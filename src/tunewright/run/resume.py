"""Find what to resume, and refuse to go on with settings that would change what the run learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tunewright.checkpoint.store import LoadedCheckpoint
from tunewright.config.load import LoadedConfig, load_config
from tunewright.config.schema import RunConfig
from tunewright.errors import CheckpointError, ConfigError, ConfigErrors, RunError
from tunewright.run.folder import RUNS, RunFolder, newest_run
from tunewright.run.inputs import Inputs
from tunewright.run.plan import Plan

# Settings that spread the same work otherwise: a resume may change them, which is recorded as an amendment.
AMENDABLE = ("train.micro_batch_size", "train.activation_checkpointing")
# Settings that say when to look and to save, never what is learned. Data files are compared by content.
FREE_SETTINGS = (
    "checkpoint.", "evaluate.", "logging.", "track", "run.", "data.eval", "data.train",
    "data.bad_rows", "data.max_bad_rows",
)  # fmt: skip
# The checkpoint holds what became of these values; the folder that they came from may lie elsewhere now.
STARTING_PLACE = "adapter.start_from"


def load_request(
    config: Path | None, overrides: Sequence[str], *, out: Path | None, resume: str | None
) -> LoadedConfig:
    """Load the run file; without one, the configuration of the run that is resumed.

    Raises ConfigErrors, and ConfigError (`config.missing`) when there is neither.
    """
    if config is not None:
        return load_config(config, overrides=overrides)
    if resume is None:
        raise ConfigError(
            "no run file was given",
            expected="tunewright train RUN.yaml",
            hint="to go on with a run, add --resume",
            code="config.missing",
        )
    folder, _ = find_run(resume, out=out)
    return load_config(folder.config, overrides=overrides)


def find_run(resume: str, *, out: Path | None, name: str | None = None) -> tuple[RunFolder, Path | None]:
    """The run folder to go on in, and the checkpoint folder when one was named.

    resume: `auto` for the folder `out`, else runs/<name>, else the newest run below runs/; or a run or
    checkpoint folder. Raises RunError (`run.nothing-to-resume`) when there is none, ConfigError
    (`config.two-folders`) when `out` says otherwise.
    """
    if resume == "auto":
        wanted = out or (RUNS / name if name else None)
        run = RunFolder(wanted) if wanted else newest_run(RUNS)
        if run is None or not run.holds_run():
            raise _nothing_to_resume(str(wanted or RUNS))
        return run, None
    path = Path(resume)
    named = (path / "manifest.json").exists()
    run = RunFolder(path.resolve().parent.parent if named else path)
    if not run.holds_run():
        raise _nothing_to_resume(resume)
    if out is not None and out.resolve() != run.path.resolve():
        raise ConfigError(
            "a run goes on in its own folder",
            where="--out",
            got=str(out),
            expected=str(run.path),
            hint="leave --out away",
            code="config.two-folders",
        )
    return run, path if named else None


def _nothing_to_resume(where: str) -> RunError:
    return RunError(
        "there is no run to resume here",
        where=where,
        expected="a run folder or one of its checkpoints",
        hint="leave --resume out to start a new run",
        code="run.nothing-to-resume",
    )


def check_same_settings(before: Mapping[str, Any], now: RunConfig) -> None:
    """Raise ConfigErrors naming each setting that differs from the checkpoint's configuration."""
    old, new = _flatten(before), _flatten(now.model_dump(mode="json"))
    errors = [
        ConfigError(
            "differs from the run that is resumed",
            where=key,
            got=_text(new.get(key)),
            expected=_text(old.get(key)),
            hint="put it back, or start a new run with adapter.start_from set to an export of this one",
            code="config.resume-conflict",
        )
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not _may_change(key)
        and not (key == STARTING_PLACE and old.get(key) and new.get(key))
    ]
    if errors:
        raise ConfigErrors(errors)


def check_can_resume(checkpoint: LoadedCheckpoint, plan: Plan, inputs: Inputs) -> None:
    """Refuse a checkpoint of other settings, other data or another base model.

    Raises ConfigErrors naming each setting, or CheckpointError (`checkpoint.other-model`,
    `checkpoint.other-data`).
    """
    # A setting that is younger than the checkpoint had today's default then.
    before = RunConfig.model_validate(checkpoint.run_state["config"])
    check_same_settings(before.model_dump(mode="json"), inputs.config)
    _check_same("model", "the base model is not the one", checkpoint.path, plan.model_hash, inputs.model_hash)
    _check_same("data", "the training data is not what", checkpoint.path, plan.data_hash, inputs.data_hash)


def _check_same(kind: str, what: str, checkpoint: Path, before: str, now: str) -> None:
    if before == now:
        return
    raise CheckpointError(
        f"{what} this checkpoint was trained on",
        where=str(checkpoint),
        got=f"{kind} hash {now[:12]}",
        expected=before[:12],
        hint=f"restore the {kind} of the run, or start a new run",
        code=f"checkpoint.other-{kind}",
    )


def _may_change(key: str) -> bool:
    return any(
        key.startswith(name) if name.endswith(".") else key == name for name in (*FREE_SETTINGS, *AMENDABLE)
    )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in cast("Mapping[str, Any]", value).items():
            found.update(_flatten(item, f"{prefix}{key}."))
        return found
    return {prefix.rstrip("."): value}


def _text(value: Any) -> str:
    return "nothing" if value is None else str(value)
