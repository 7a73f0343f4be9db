from __future__ import annotations

import errno
import json
import pickle
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunewright.errors import ModelError
from tunewright.models.resolve import resolve_model

CODE_KEYS = (
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "attn_implementation",
    "experts_implementation",
)


def _refused(name: Path | str, code: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(str(name))
    assert caught.value.code == code
    return str(caught.value)


class Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def test_the_copy_holds_links_to_weights_and_filtered_settings(llama: Path, cache: Path) -> None:
    (llama / "modeling_evil.py").write_text("raise SystemExit")
    (llama / "README.md").write_text("# model")
    found = resolve_model(str(llama))
    assert found.folder.parent == cache
    assert found.name == str(llama)
    assert found.warnings == ()
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (found.folder / "model.safetensors").resolve() == llama / "model.safetensors"
    assert json.loads((found.folder / "config.json").read_text()) == json.loads(
        (llama / "config.json").read_text()
    )


def test_the_same_model_is_copied_once_and_a_changed_one_anew(llama: Path, cache: Path, edit_json) -> None:
    first = resolve_model(str(llama)).folder
    assert resolve_model(str(llama)).folder == first
    edit_json(llama / "config.json", rms_norm_eps=1e-3)
    assert resolve_model(str(llama)).folder != first
    assert sum(path.is_dir() for path in cache.iterdir()) == 2


def test_many_at_once_make_one_whole_copy(llama: Path, cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = {found.folder for found in pool.map(resolve_model, [str(llama)] * 24)}
    assert len(folders) == 1
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [folders.pop().name]


def test_a_cache_that_cannot_be_written_is_named(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(llama / "config.json"))
    assert "TUNEWRIGHT_CACHE" in _refused(llama, "model.cache")


def test_hard_links_where_symbolic_ones_are_not_allowed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no symbolic links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    found = resolve_model(str(llama)).folder / "model.safetensors"
    assert not found.is_symlink()
    assert found.samefile(llama / "model.safetensors")


@pytest.mark.parametrize("name", ["no-such-model", "a/b/c", "/no/such/folder", "org/name.gguf", "öl/modell"])
def test_an_unknown_model_is_refused(name: str) -> None:
    _refused(name, "model.unknown")


def test_an_unknown_bundled_model_is_refused() -> None:
    assert "builtin:tiny" in _refused("builtin:huge", "model.unknown")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "config.json" in _refused(tmp_path, "model.no-config")


def test_an_adapter_folder_says_how_to_use_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "--adapter" in _refused(tmp_path, "model.is-adapter")


def test_remote_code_of_a_foreign_type_never_runs(llama: Path, edit_json, tmp_path: Path) -> None:
    edit_json(
        llama / "config.json", model_type="canary_text", auto_map={"AutoModelForCausalLM": "canary.Canary"}
    )
    (llama / "canary.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "remote code" in _refused(llama, "model.remote-code")
    assert not (tmp_path / "ran").exists()


def test_code_keys_of_a_native_type_are_left_out_and_told(llama: Path, edit_json, tmp_path: Path) -> None:
    (llama / "canary.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit_json(llama / "config.json", **{key: {"AutoModelForCausalLM": "canary.Canary"} for key in CODE_KEYS})
    edit_json(llama / "tokenizer_config.json", auto_map={"AutoTokenizer": ["canary.Canary", None]})
    edit_json(llama / "generation_config.json", custom_generate="./canary", _from_model_config=True)
    found = resolve_model(str(llama))
    assert len(found.warnings) == len(CODE_KEYS)
    for path in found.folder.glob("*.json"):
        assert "canary" not in path.read_text()
    code = f"""if True:
        from pathlib import Path
        import torch
        from tunewright.data.templates import load_tokenizer
        from tunewright.engines.torch.load import load_model
        load_model(Path({str(found.folder)!r}), dtype=torch.float32, device=torch.device("cpu"))
        load_tokenizer(Path({str(found.folder)!r}), None)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=llama)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "key",
    [
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "model_file",
    ],
)
def test_keys_that_run_code_unasked_are_refused(key: str, llama: Path, edit_json) -> None:
    edit_json(llama / "config.json", **{key: "canary.py"})
    assert key in _refused(llama, "model.unsafe-config")
    edit_json(llama / "config.json", **{key: None, "rope_parameters": {"rope_type": "default", key: 1}})
    assert f"rope_parameters.{key}" in _refused(llama, "model.unsafe-config")


def test_pickle_weights_are_refused_and_not_opened(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").unlink()
    (llama / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    assert "pytorch_model.bin" in _refused(llama, "model.pickle")
    assert not (tmp_path / "ran").exists()


def test_pickle_under_a_safe_name_is_refused(llama: Path, tmp_path: Path) -> None:
    for content in (pickle.dumps(Canary(tmp_path / "ran")), b"PK\x03\x04" + bytes(100)):
        (llama / "model.safetensors").write_bytes(content)
        _refused(llama, "model.pickle")
    assert not (tmp_path / "ran").exists()


def test_pickle_beside_safetensors_stays_outside(llama: Path) -> None:
    (llama / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert not (resolve_model(str(llama)).folder / "pytorch_model.bin").exists()


def test_gguf_is_refused_by_name_and_by_content(llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(b"GGUF" + bytes(100))
    _refused(llama, "model.gguf")
    (llama / "model.safetensors").unlink()
    (llama / "model-q4.gguf").write_bytes(b"GGUF")
    _refused(llama, "model.gguf")
    _refused(llama / "model-q4.gguf", "model.gguf")


def test_a_file_instead_of_a_folder_is_refused(llama: Path) -> None:
    assert str(llama) in _refused(llama / "model.safetensors", "model.unknown")


def test_a_lying_header_is_refused(llama: Path) -> None:
    path = llama / "model.safetensors"
    content = path.read_bytes()
    for broken in (content[:-1], content + b"\0", struct.pack("<Q", 2**40) + content[8:], b""):
        path.write_bytes(broken)
        assert "model.safetensors" in _refused(llama, "model.bad-arrays")


def test_missing_weights_are_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    _refused(llama, "model.no-weights")


def test_a_missing_tokenizer_is_refused_with_a_hint(llama: Path) -> None:
    (llama / "tokenizer.json").unlink()
    assert "copy tokenizer.json" in _refused(llama, "model.no-tokenizer")
    (llama / "tokenizer.model").write_bytes(b"\n")
    message = _refused(llama, "model.no-tokenizer")
    assert "tokenizer.model" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', "[" * 100_000, "\xff"])
def test_a_broken_config_is_refused(text: str, llama: Path) -> None:
    (llama / "config.json").write_text(text, encoding="latin-1")
    assert "config.json" in _refused(llama, "model.bad-json")


def test_words_of_python_for_infinity_are_read(llama: Path, edit_json) -> None:
    edit_json(llama / "config.json", rope_parameters={"rope_type": "default", "limit": float("inf")})
    assert '"__float__": "Infinity"' in (resolve_model(str(llama)).folder / "config.json").read_text()


def test_a_huge_config_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.models.sanitise.MOST_JSON_BYTES", 100)
    _refused(llama, "model.bad-json")


def test_shards_are_linked_by_their_index(llama: Path) -> None:
    whole = llama / "model.safetensors"
    whole.rename(llama / "part-1.safetensors")
    names = [name for name in json.loads(_header(llama / "part-1.safetensors")) if name != "__metadata__"]
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "part-1.safetensors")}))
    (llama / "consolidated.safetensors").write_bytes(b"")
    copied = {path.name for path in resolve_model(str(llama)).folder.iterdir()}
    assert {"part-1.safetensors", index.name} <= copied
    assert not copied & {"consolidated.safetensors", "model.safetensors"}


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"a": "../../etc/passwd.safetensors"}, "model.bad-index"),
        ({"a": "model.bin"}, "model.bad-index"),
        ({"a": 3}, "model.bad-index"),
        ({}, "model.bad-index"),
        (None, "model.bad-index"),
        ({"a": "absent.safetensors"}, "model.incomplete"),
        ({"no.such.array": "part-1.safetensors"}, "model.incomplete"),
    ],
)
def test_a_bad_index_is_refused(weight_map: object, code: str, llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "part-1.safetensors")
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _refused(llama, code)


def test_nothing_heavy_is_imported(llama: Path) -> None:
    code = f"""if True:
        import sys
        from tunewright.models.arch import load_arch
        from tunewright.models.resolve import resolve_model
        load_arch(resolve_model({str(llama)!r}).folder)
        loaded = {{"torch", "transformers", "numpy", "huggingface_hub"}} & set(sys.modules)
        assert not loaded, loaded"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _header(path: Path) -> str:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")].decode()


def test_copies_of_models_that_nobody_uses_make_room(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "0")
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    held = resolve_model(str(llama))
    resolve_model(str(other))
    third = tmp_path / "third"
    shutil.copytree(llama, third)
    newest = resolve_model(str(third))
    left = {path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()}
    assert left == {held.folder.name, newest.folder.name}
    assert (llama / "model.safetensors").is_file()
    assert (other / "model.safetensors").is_file()


def test_a_cache_that_somebody_else_filled_is_read_without_a_lock(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve_model(str(llama))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr("tunewright.cache.os.utime", refuse)
    again = resolve_model(str(llama))
    assert (again.folder, again.held) == (first.folder, None)
