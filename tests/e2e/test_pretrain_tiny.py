"""The script that makes `builtin:tiny`, rehearsed on little text and few steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tunewright.arrays import read_arrays, read_header
from tunewright.assets.files import TINY_MODEL

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_tiny.py"


def test_the_script_makes_a_folder_like_the_bundled_one(tmp_path: Path):
    work, target = tmp_path / "work", tmp_path / "tiny"
    options = ["--rows", "300", "--set", "train.max_steps=2", "--set", "train.precision=fp32"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--work", str(work), "--target", str(target), *options],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir()} == {path.name for path in TINY_MODEL.iterdir()}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (target / name).read_bytes() == (TINY_MODEL / name).read_bytes(), name
    made, bundled = (read_header(folder / "model.safetensors") for folder in (target, TINY_MODEL))
    assert {n: (e.dtype, e.shape) for n, e in made.items()} == {
        n: (e.dtype, e.shape) for n, e in bundled.items()
    }
    start, trained = (
        read_arrays(work / part / "model.safetensors") for part in ("start", "run/exports/final")
    )
    assert any(bytes(start[name].data) != bytes(trained[name].data) for name in start)
    assert "300 rows, seed 0" in (target / "README.md").read_text(encoding="utf-8")
