from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tunewright import assets
from tunewright.config.load import load_config
from tunewright.errors import ConfigError, ModelError
from tunewright.run.inputs import Inputs, read_inputs

TINY = Path(assets.__file__).with_name("tiny")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def change_config(model: Path, **values: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def read(folder: Path, loading: str, seq_len: int) -> Inputs:
    (folder / "rows.jsonl").write_text('{"text": "one two"}\n' * 20)
    text = f"""model: {folder / "model"}
data: {{train: rows.jsonl, eval: 0.1, loading: {loading}, seq_len: {seq_len}}}
"""
    return read_inputs(load_config(None, text=text).config, folder, lambda _: None)


def test_rows_not_looked_at_could_be_as_long_as_allowed(tmp_path: Path, model: Path) -> None:
    change_config(model, max_position_embeddings=64)
    assert read(tmp_path, "memory", 128).data.report.loading == "memory"
    assert read(tmp_path, "indexed", 64).data.report.loading == "indexed"
    with pytest.raises(ConfigError, match=r"data\.seq_len") as caught:
        read(tmp_path, "indexed", 128)
    assert caught.value.code == "config.positions"


def test_rows_not_looked_at_could_hold_any_token(tmp_path: Path, model: Path) -> None:
    inputs = read(tmp_path, "indexed", 64)
    change_config(model, vocab_size=inputs.tokenizer.largest_id)
    with pytest.raises(ModelError) as caught:
        read(tmp_path, "indexed", 64)
    assert caught.value.code == "model.vocabulary"


def test_the_data_hash_of_an_indexed_file_does_not_depend_on_its_place(tmp_path: Path, model: Path) -> None:
    first = read(tmp_path, "indexed", 64).data_hash
    assert read(tmp_path, "indexed", 64).data_hash == first
    assert read(tmp_path, "indexed", 32).data_hash != first
