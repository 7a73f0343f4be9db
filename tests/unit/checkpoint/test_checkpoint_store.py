"""What the store keeps, finds and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoint_cases import IDENTITY, is_exact, new_store, save, state_of
from tunewright.checkpoint.manifest import MANIFEST, Manifest, Metric, read_manifest, write_manifest
from tunewright.checkpoint.migrate import FORMAT_VERSION
from tunewright.checkpoint.store import CheckpointStore
from tunewright.errors import CheckpointError
from tunewright.files import json_bytes


def test_what_is_saved_is_loaded_to_the_byte(tmp_path: Path):
    store = new_store(tmp_path)
    saved = save(store, 500)
    assert saved.path == tmp_path / "checkpoints" / "step-000500"
    assert saved.bytes == sum(path.stat().st_size for path in saved.path.iterdir())
    for loaded in (store.load(), store.load(saved.path)):
        assert (loaded.step, loaded.rejected, loaded.identity) == (500, (), IDENTITY)
        assert is_exact(loaded)


def test_no_pickle_and_every_file_in_the_manifest(tmp_path: Path):
    folder = save(new_store(tmp_path), 1).path
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["format_version"] == FORMAT_VERSION == 2
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {MANIFEST}
    assert manifest["identity"] == IDENTITY


@pytest.mark.parametrize(
    ("keep", "keep_best", "kept"),
    [(2, False, [4, 5]), (2, True, [2, 4, 5]), (1, True, [2, 5]), (9, True, [1, 2, 3, 4, 5])],
)
def test_retention_keeps_the_newest_and_the_best(tmp_path: Path, keep: int, keep_best: bool, kept: list[int]):
    store = CheckpointStore(tmp_path, keep=keep, keep_best=keep_best)
    for step, metric in enumerate([0.9, 0.4, None, 0.4, 0.8], start=1):
        save(store, step, metric)
    assert store.steps() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:06d}" for step in kept]


def test_best_can_be_the_highest_and_counts_metrics_of_one_name_only(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=1, keep_best=True, best_mode="max")
    for step, value in enumerate([0.5, 0.9, 0.9, 0.7], start=1):
        save(store, step, Metric("valid_token_accuracy", value))
    assert store.steps() == [2, 4]
    for step, value in enumerate([0.2, 0.3, 0.1], start=5):
        save(store, step, Metric("other", value))
    assert store.steps() == [6, 7], "a number of another name is no rival"


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_no_number_neither_fails_nor_wins(tmp_path: Path, metric: float):
    store = new_store(tmp_path, keep=1, keep_best=True)
    save(store, 1, 0.5)
    save(store, 2, metric)
    save(store, 3, 0.6)
    assert store.steps() == [1, 3]


def test_a_valid_step_is_kept_and_never_written_again(tmp_path: Path):
    store = new_store(tmp_path)
    first = save(store, 5)
    before = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    again = save(store, 5)
    assert (again.path, again.bytes) == (first.path, first.bytes)
    assert {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()} == before


def test_a_damaged_step_is_set_aside_and_saved_anew(tmp_path: Path):
    store = new_store(tmp_path)
    for _ in range(2):
        save(store, 5)
        (store.folder / "step-000005" / "engine.json").write_text("{}")
    save(store, 5)
    assert is_exact(store.load())
    assert store.load().rejected == ()
    aside = sorted(path.name for path in store.folder.glob("aside-*"))
    assert aside == ["aside-step-000005-1", "aside-step-000005-2"]
    assert store.steps() == [5]


def test_a_step_of_other_settings_is_set_aside(tmp_path: Path):
    store = new_store(tmp_path)
    save(store, 5, config_hash="other")
    save(store, 5)
    assert store.load().identity == IDENTITY
    assert read_manifest(store.folder / "aside-step-000005-1").identity["config_hash"] == "other"


def test_leftovers_of_dead_processes_go_with_the_next_save(tmp_path: Path):
    store = new_store(tmp_path)
    (store.folder / "tmp-000004-99999").mkdir(parents=True)
    (store.folder / "tmp-000004-99999" / "engine.safetensors").write_bytes(b"half")
    assert store.steps() == []
    save(store, 5)
    assert [path.name for path in store.folder.iterdir()] == ["step-000005"]


def test_folders_that_are_not_ours_are_passed_over(tmp_path: Path):
    store = new_store(tmp_path)
    for name in ("step-best", "step-12", "step-²²²²²²", "notes"):
        (store.folder / name).mkdir(parents=True)
    save(store, 1_234_567)
    assert store.steps() == [1_234_567]
    assert store.load().step == 1_234_567


def test_nothing_to_load_is_named(tmp_path: Path):
    store = new_store(tmp_path)
    with pytest.raises(CheckpointError, match="no valid checkpoint") as caught:
        store.load()
    assert caught.value.code == "checkpoint.none-valid"
    with pytest.raises(CheckpointError, match="no checkpoint folder") as caught:
        store.load(tmp_path / "nowhere")
    assert caught.value.code == "checkpoint.missing"


def test_all_damaged_is_one_error_that_names_each(tmp_path: Path):
    store = new_store(tmp_path)
    for step in (1, 2):
        save(store, step)
        (store.folder / f"step-{step:06d}" / "engine.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-000002.*engine\.json.*step-000001.*engine\.json"):
        store.load()


def test_a_newer_format_is_refused_by_name_not_passed_over(tmp_path: Path):
    store = new_store(tmp_path)
    save(store, 1)
    folder = save(store, 2).path
    body = json.loads((folder / MANIFEST).read_text())
    del body["self_sha256"]
    _rewrite(folder, {**body, "format_version": FORMAT_VERSION + 1})
    for path in (None, folder):
        with pytest.raises(CheckpointError, match="newer version") as caught:
            store.load(path)
        assert caught.value.code == "checkpoint.newer-format"
    save(store, 3)
    assert store.steps() == [1, 2, 3]


def test_a_renamed_folder_does_not_pass_for_another_step(tmp_path: Path):
    store = new_store(tmp_path)
    save(store, 1)
    save(store, 2).path.rename(store.folder / "step-000009")
    loaded = store.load()
    assert loaded.step == 1
    assert "is of step 2" in loaded.rejected[0]
    assert store.load(store.folder / "step-000009").step == 2


def test_a_file_that_is_not_in_the_manifest_is_refused(tmp_path: Path):
    store = new_store(tmp_path)
    folder = save(store, 1).path
    (folder / "optimizer.pkl").write_bytes(b"cos\nsystem")
    with pytest.raises(CheckpointError, match=r"optimizer\.pkl: is not in the manifest"):
        store.load(folder)


def test_files_that_agree_with_the_manifest_but_not_with_the_format(tmp_path: Path):
    store = new_store(tmp_path)
    folder = save(store, 1).path
    for path in folder.iterdir():
        path.unlink()
    write_manifest(folder, Manifest(1, None, {}, {}))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        store.load(folder)
    assert caught.value.code == "checkpoint.damaged"


def test_a_state_that_json_cannot_hold_leaves_nothing(tmp_path: Path):
    store = new_store(tmp_path)
    save(store, 1)
    with pytest.raises(TypeError):
        store.save(2, state_of(2), {"bad": object()}, IDENTITY, None)
    assert [path.name for path in store.folder.iterdir()] == ["step-000001"]


def _rewrite(folder: Path, body: dict[str, object]) -> None:
    import hashlib

    whole = {**body, "self_sha256": hashlib.sha256(json_bytes(body)).hexdigest()}
    (folder / MANIFEST).write_bytes(json_bytes(whole))
