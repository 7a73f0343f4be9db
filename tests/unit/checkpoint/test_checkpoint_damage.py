"""A thousand random corruptions: each found, its file named, and the checkpoint before loads instead."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_cases import is_exact, new_store, save
from tunewright.checkpoint.manifest import MANIFEST
from tunewright.checkpoint.store import CheckpointStore
from tunewright.errors import CheckpointError

PAGE = 4096
STEPS = (1, 2, 3)
NEWEST = "step-000003"

# What was touched: folder name → names of files, any of which is a right answer.
Touched = dict[str, set[str]]
Damage = Callable[[Path, random.Random], Touched]


def flip_bit(folder: Path, chance: random.Random) -> Touched:
    path = _any_file(folder, chance)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return {NEWEST: {path.name}}


def truncate(folder: Path, chance: random.Random) -> Touched:
    path = _any_file(folder, chance)
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])
    return {NEWEST: {path.name}}


def lengthen(folder: Path, chance: random.Random) -> Touched:
    path = _any_file(folder, chance)
    path.write_bytes(path.read_bytes() + chance.choice([b" ", b"\n", b"\0" * PAGE]))
    return {NEWEST: {path.name}}


def zero_page(folder: Path, chance: random.Random) -> Touched:
    path = _any_file(folder, chance)
    data = path.read_bytes()
    start = chance.randrange(0, len(data), PAGE)
    end = min(start + PAGE, len(data))
    path.write_bytes(data[:start] + b"\0" * (end - start) + data[end:])
    return {NEWEST: {path.name}}


def swap_within(folder: Path, chance: random.Random) -> Touched:
    one, two = chance.sample(sorted((folder / NEWEST).iterdir()), 2)
    _swap(one, two)
    return {NEWEST: {one.name, two.name}}


def swap_between(folder: Path, chance: random.Random) -> Touched:
    other = "step-000002"
    path = _any_file(folder, chance)
    _swap(path, folder / other / path.name)
    # Under the manifest of another checkpoint every file is wrong.
    names = {path.name for path in (folder / NEWEST).iterdir()} if path.name == MANIFEST else {path.name}
    return {NEWEST: names, other: names}


def copy_from_another(folder: Path, chance: random.Random) -> Touched:
    path = chance.choice([path for path in sorted((folder / NEWEST).iterdir()) if path.name != MANIFEST])
    shutil.copyfile(folder / "step-000001" / path.name, path)
    return {NEWEST: {path.name}}


def remove(folder: Path, chance: random.Random) -> Touched:
    path = _any_file(folder, chance)
    path.unlink()
    return {NEWEST: {path.name}}


def turn_into_a_folder(folder: Path, chance: random.Random) -> Touched:
    path = _any_file(folder, chance)
    path.unlink()
    path.mkdir()
    return {NEWEST: {path.name}}


def add(folder: Path, chance: random.Random) -> Touched:
    name = chance.choice(["optimizer.pkl", "engine.safetensors.bak", "manifest.json~", ".hidden", "ä"])
    (folder / NEWEST / name).write_bytes(chance.randbytes(chance.randrange(100)))
    return {NEWEST: {name}}


def edit_manifest(folder: Path, chance: random.Random) -> Touched:
    """As a person would, in an editor: good JSON, another value or no hash."""
    path = folder / NEWEST / MANIFEST
    body = json.loads(path.read_bytes())
    key = chance.choice(sorted(body))
    if chance.random() < 0.3:
        del body[key]
    else:
        body[key] = chance.choice([0, 7, "x", None, {}, []])
    path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    return {NEWEST: {MANIFEST}}


def rename(folder: Path, chance: random.Random) -> Touched:
    name = f"step-{chance.randrange(4, 999_999):06d}"
    (folder / NEWEST).rename(folder / name)
    return {name: {MANIFEST}}


def swap_names(folder: Path, chance: random.Random) -> Touched:
    other = chance.choice(["step-000001", "step-000002"])
    (folder / other).rename(folder / "aside")
    (folder / NEWEST).rename(folder / other)
    (folder / "aside").rename(folder / NEWEST)
    return {NEWEST: {MANIFEST}, other: {MANIFEST}}


CASES: dict[Damage, int] = {
    flip_bit: 400,
    truncate: 120,
    lengthen: 40,
    zero_page: 120,
    swap_within: 50,
    swap_between: 60,
    copy_from_another: 30,
    remove: 40,
    turn_into_a_folder: 20,
    add: 30,
    edit_manifest: 60,
    rename: 20,
    swap_names: 10,
}
# A folder under another name is whole: only the search for the newest minds, as it trusts the name.
WHOLE = (rename, swap_names)


def test_they_are_a_thousand() -> None:
    assert sum(CASES.values()) == 1000


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_damage_is_found_named_and_survived(tmp_path: Path, damage: Damage) -> None:
    store = new_store(tmp_path)
    for step in STEPS:
        save(store, step)
    good = {path: path.read_bytes() for path in store.folder.rglob("*.*") if path.is_file()}
    found = 0
    for seed in range(CASES[damage]):
        touched = damage(store.folder, random.Random(f"{damage.__name__} {seed}"))
        if damage not in WHOLE:
            for name, files in touched.items():
                with pytest.raises(CheckpointError) as caught:
                    store.load(store.folder / name)
                assert caught.value.code == "checkpoint.damaged"
                assert Path(caught.value.where or "").name in files, seed
        _check_fallback(store, touched)
        found += 1
        _put_back(store.folder, good)
    assert found == CASES[damage]
    assert is_exact(store.load()), "the test itself puts all back"


def _put_back(folder: Path, good: dict[Path, bytes]) -> None:
    """Undo the damage; far quicker than a fresh copy for each case."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in good:
            path.unlink()
        elif path.is_dir() and not any(path in file.parents for file in good):
            path.rmdir()
    for path, data in good.items():
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def _check_fallback(store: CheckpointStore, touched: Touched) -> None:
    """The newest sound checkpoint loads, and each newer one is told with a file of those touched."""
    sound = max(step for step in store.steps() if f"step-{step:06d}" not in touched)
    loaded = store.load()
    assert loaded.step == sound
    assert is_exact(loaded)
    newer = [name for name in sorted(touched, reverse=True) if name > f"step-{sound:06d}"]
    assert len(loaded.rejected) == len(newer)
    for line, name in zip(loaded.rejected, newer, strict=True):
        assert any(f"{name}/{file}: " in line for file in touched[name]), line


def test_every_byte_of_a_manifest_counts(tmp_path: Path):
    folder = save(new_store(tmp_path), 1, 0.125).path
    path = folder / "manifest.json"
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 7):  # each byte, in turn another bit of it
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            new_store(tmp_path).load(folder)


def test_a_file_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tunewright.checkpoint import manifest

    store = new_store(tmp_path)
    save(store, 1)
    save(store, 2)
    real = manifest.hash_file

    def bad_sector(path: Path):
        if path.parent.name == "step-000002" and path.suffix == ".safetensors":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(manifest, "hash_file", bad_sector)
    loaded = store.load()
    assert loaded.step == 1
    assert "engine.safetensors: cannot be read (Input/output error)" in loaded.rejected[0]


def _any_file(folder: Path, chance: random.Random) -> Path:
    return chance.choice(sorted((folder / NEWEST).iterdir()))


def _swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
