"""Random damage: always found, always named, always survived."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_cases import is_exact, new_store, save
from tunewright.errors import CheckpointError

PAGE = 4096


def flip_bit(folder: Path, chance: random.Random) -> set[str]:
    path = _any_file(folder, chance)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return {path.name}


def truncate(folder: Path, chance: random.Random) -> set[str]:
    path = _any_file(folder, chance)
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])
    return {path.name}


def lengthen(folder: Path, chance: random.Random) -> set[str]:
    path = _any_file(folder, chance)
    path.write_bytes(path.read_bytes() + chance.choice([b" ", b"\n", b"\0" * PAGE]))
    return {path.name}


def zero_page(folder: Path, chance: random.Random) -> set[str]:
    path = _any_file(folder, chance)
    data = path.read_bytes()
    start = chance.randrange(0, len(data), PAGE)
    end = min(start + PAGE, len(data))
    path.write_bytes(data[:start] + b"\0" * (end - start) + data[end:])
    return {path.name}


def swap(folder: Path, chance: random.Random) -> set[str]:
    one, two = chance.sample(sorted(folder.iterdir()), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return {one.name, two.name}


def remove(folder: Path, chance: random.Random) -> set[str]:
    path = _any_file(folder, chance)
    path.unlink()
    return {path.name}


def take_from_another_step(folder: Path, chance: random.Random) -> set[str]:
    path = chance.choice([path for path in sorted(folder.iterdir()) if path.name != "manifest.json"])
    shutil.copyfile(folder.parent / "step-000001" / path.name, path)
    return {path.name}


def turn_into_a_folder(folder: Path, chance: random.Random) -> set[str]:
    path = _any_file(folder, chance)
    path.unlink()
    path.mkdir()
    return {path.name}


DAMAGE: list[Callable[[Path, random.Random], set[str]]] = [
    flip_bit,
    truncate,
    lengthen,
    zero_page,
    swap,
    remove,
    take_from_another_step,
    turn_into_a_folder,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_named_and_survived(
    tmp_path: Path, damage: Callable[[Path, random.Random], set[str]]
):
    good = new_store(tmp_path / "good")
    save(good, 1)
    save(good, 2)
    for seed in range(120 if damage is flip_bit else 30):
        folder = tmp_path / f"{seed}"
        shutil.copytree(tmp_path / "good", folder)
        store = new_store(folder)
        newest = store.folder / "step-000002"
        touched = damage(newest, random.Random(seed))
        with pytest.raises(CheckpointError) as caught:
            store.load(newest)
        assert caught.value.code == "checkpoint.damaged"
        assert Path(caught.value.where or "").name in touched
        loaded = store.load()
        assert loaded.step == 1
        assert is_exact(loaded)
        assert len(loaded.rejected) == 1
        assert any(name in loaded.rejected[0] for name in touched)
        shutil.rmtree(folder)


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
    return chance.choice(sorted(folder.iterdir()))
