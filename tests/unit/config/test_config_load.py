"""Layers, origins, and every fault at once with its line."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_strategies import run_configs
from tunewright.config.load import check_files, config_hash, dump_config, load_config
from tunewright.errors import ConfigErrors, ExitCode

MINIMAL = "model: builtin:tiny\ndata: {train: rows.jsonl}\n"


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """Write run.yaml and return how a user in its folder names it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path.relative_to(tmp_path)

    return write


def faults_of(path, **options):
    with pytest.raises(ConfigErrors) as caught:
        load_config(path, **options)
    return [str(fault) for fault in caught.value.errors]


def test_model_and_data_are_a_complete_run(run_file, tmp_path):
    loaded = load_config(run_file(MINIMAL))
    assert loaded.config.model.name == "builtin:tiny"
    assert [source.path for source in loaded.config.data.train] == ["rows.jsonl"]
    assert loaded.config.adapter.rank == 16
    assert loaded.base_dir == tmp_path


def test_traps_arrive_as_a_person_means_them(run_file):
    text = MINIMAL + "train: {learning_rate: 1e-5, seed: 010}\nadapter: {start_from: no}\n"
    config = load_config(run_file(text)).config
    assert config.train.learning_rate == 1e-5
    assert config.train.seed == 10
    assert config.adapter.start_from == "no"


def test_every_setting_knows_where_it_came_from(run_file):
    path = run_file(
        "preset: laptop\nmodel: builtin:tiny\ndata:\n  train:\n    - rows.jsonl\n    - {path: b, weight: 2}\n"
    )
    loaded = load_config(path, overrides=["train.seed=3", "data.train.0.weight=0.5", "train.betas.1=0.99"])
    origins = loaded.origins
    assert origins["model.name"] == "run.yaml:2"
    assert origins["data.train.0.path"] == "run.yaml:5"
    assert origins["data.train.1.weight"] == "run.yaml:6"
    assert origins["data.train.0.weight"] == origins["train.seed"] == origins["train.betas"] == "--set"
    assert origins["adapter.rank"] == "preset laptop"
    assert origins["train.schedule"] == origins["evaluate.metrics"] == "default"
    assert loaded.config.data.train[0].weight == 0.5
    assert loaded.config.train.betas == (0.9, 0.99)


def test_all_faults_come_at_once_in_the_order_of_the_file(run_file):
    path = run_file(
        "model: builtin:tiny\n"
        "adapter:\n"
        "  rnk: 8\n"
        "  dropout: 1.5\n"
        "train:\n"
        "  schedule: cosin\n"
        "  epochs: true\n"
        "  learning_rate: 0\n"
        "  lr: 1\n"
        "  betas: [0.9]\n"
        "data:\n"
        "  train: [{path: a, formt: text}, {path: 3}]\n"
        "  eval: [1]\n"
    )
    assert faults_of(path, overrides=["train.seed=-1"]) == [
        "adapter.rnk (run.yaml:3): not a setting; did you mean adapter.rank?",
        "adapter.dropout (run.yaml:4): out of range, got 1.5, expected a number of at least 0 and below 1",
        "train.schedule (run.yaml:6): unknown choice, got cosin, expected cosine, linear or constant\n"
        "hint: did you mean cosine?",
        "train.epochs (run.yaml:7): wrong type, got true, expected a number above 0",
        "train.learning_rate (run.yaml:8): out of range, got 0, expected auto or a number above 0",
        "train.lr (run.yaml:9): not a setting; did you mean train.learning_rate?",
        "train.betas (run.yaml:10): too few values, got [0.9], expected a list of 2 values, "
        "each a number of at least 0 and below 1",
        "data.train.0.formt (run.yaml:12): not a setting; did you mean data.train.0.format?",
        "data.train.1.path (run.yaml:12): wrong type, got 3, expected text that is not empty\n"
        'hint: put it in quotes to make it text: "3"',
        "data.eval (run.yaml:13): wrong type, got [1], expected text or a number of at least 0 and below 1",
        "train.seed (--set): out of range, got -1, "
        "expected a whole number of at least 0 and below 4294967296",
    ]


def test_duplicates_presets_and_overrides_are_reported_with_the_rest(run_file):
    path = run_file(MINIMAL + "preset: labtop\ntrain: {seed: 1, seed: 2, epochs: 0}\n")
    changes = ["epochs", "a.b=[", "data.train.4.path=x", "adapter={rank: 1, rank: 2}", ".=1"]
    faults = faults_of(path, overrides=changes)
    assert [fault.partition(":")[0] for fault in faults[:1]] == ["run.yaml"]
    text = "\n".join(faults)
    for part in (
        "the key seed is set twice",
        "preset (run.yaml:3): no such preset, got labtop",
        "did you mean laptop?",
        "--set: not an override, got epochs, expected KEY=VALUE",
        "--set: not an override, got .=1",
        "--set a.b=[: not valid YAML",
        "--set adapter={rank: 1, rank: 2}: the key rank is set twice",
        "data.train.4 (--set): there is no item 4; data.train has 1, counted from 0",
        "train.epochs (run.yaml:4): out of range",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.yaml: empty"),
        ("# nothing\n", "run.yaml: empty"),
        ("- a\n", "run.yaml: not a mapping"),
        ("just text\n", "run.yaml: not a mapping"),
        ("a: [\n", "run.yaml:2: not valid YAML: something is opened and not closed"),
        ("#" * 300_000, "run.yaml: too large"),
    ],
)
def test_a_file_that_is_no_run_file(run_file, text, message):
    [fault] = faults_of(run_file(text))
    assert fault.startswith(message)


def test_a_missing_file_a_folder_and_other_bytes(tmp_path):
    [fault] = faults_of(tmp_path / "no.yaml")
    assert fault == f"{tmp_path / 'no.yaml'}: no such file"
    [fault] = faults_of(tmp_path)
    assert "a folder, expected a YAML file" in fault
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xff\n")
    [fault] = faults_of(latin)
    assert fault == f"{latin}:2: not UTF-8 text"
    long = tmp_path / "long.yaml"
    long.write_bytes("é".encode() * 200_000)
    [fault] = faults_of(long)
    assert "too large" in fault
    (tmp_path / "file").touch()
    [fault] = faults_of(tmp_path / "file" / "run.yaml")
    assert "cannot be read: Not a directory" in fault


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(path).origins["model.name"] == f"{path}:1"


def test_what_is_missing_is_named_down_to_the_key(run_file):
    faults = faults_of(run_file("train: {seed: 1}\n"))
    assert faults == [
        "model.name (run.yaml): missing\nhint: add it, such as `model: builtin:tiny`",
        "data.train (run.yaml): missing\nhint: add it, such as `data: {train: rows.jsonl}`",
    ]
    faults = faults_of(run_file("model: {dtype: fp32}\ndata:\n  train:\n    - {format: text}\n"))
    assert faults == [
        "model.name (run.yaml:1): missing\nhint: add it, such as `model: builtin:tiny`",
        "data.train.0.path (run.yaml:4): missing",
    ]
    assert faults_of(run_file("model:\ndata:\n  train: []\n"))[0].startswith(
        "model.name (run.yaml:1): missing"
    )


def test_an_empty_section_is_no_setting(run_file):
    assert load_config(run_file(MINIMAL + "train:\nadapter:\n")).config.train.epochs == 3


def test_overrides_alone_are_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_config(None, overrides=["model=builtin:tiny", "data.train=[a, b]", "data.train.1.weight=2"])
    assert [source.weight for source in loaded.config.data.train] == [1, 2]
    assert loaded.base_dir == tmp_path
    with pytest.raises(ConfigErrors, match="empty"):
        load_config(None)


def test_overrides_reach_everywhere(run_file):
    changes = [
        "data.train.0=other.jsonl",
        "data.train.0.columns.question=q",
        "track=",
        "adapter={targets: [q_proj], rank: 4}",
        "model.quantization=none",
    ]
    path = run_file(
        "model: {name: m, dtype: fp32}\ndata: {train: {path: a, weight: 2}}\nadapter: {alpha: 8}\n"
    )
    [fault] = faults_of(path, overrides=changes)
    assert fault == "track (--set): unknown choice, got null, expected auto or a list of console or wandb"
    config = load_config(path, overrides=[*changes, "track=[]"]).config
    assert config.data.train[0].model_dump() == {
        "path": "other.jsonl",
        "format": "auto",
        "weight": 2,
        "columns": {"question": "q"},
    }
    assert (config.adapter.targets, config.adapter.rank, config.adapter.alpha) == (("q_proj",), 4, 8)
    assert config.model.dtype == "fp32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epochs.0=1", 'train.epochs (--set): wrong type, got {"0": 1}, expected a number above 0'),
        ("data.train.x.path=1", "data.train.x (--set): there is no item x; data.train has 1"),
        ("track.1=console", "track.1 (--set): there is no item 1; track has 1, counted from 0"),
        ("data.train=3", "data.train (--set): wrong type, got 3, expected a list, each item a mapping"),
        ("data.train=[3]", "data.train.0 (--set): wrong type, got 3"),
        ("model=3", "model (--set): wrong type, got 3, expected a mapping"),
    ],
)
def test_an_override_that_does_not_fit_is_named(run_file, change, message):
    assert faults_of(run_file(MINIMAL), overrides=[change])[0].startswith(message)


def test_text_replaces_the_file(tmp_path):
    loaded = load_config(tmp_path / "run.yaml", text=MINIMAL)
    assert loaded.base_dir == tmp_path
    assert loaded.origins["model.name"] == f"{tmp_path / 'run.yaml'}:1"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "device: gpu",
            "device (run.yaml:3): unknown device, got gpu, expected auto, cpu, mps, metal, cuda or cuda:N",
        ),
        ("adapter: {targets: '['}", "adapter.targets (run.yaml:3): not a regular expression"),
        ("adapter: {targets: []}", "adapter.targets (run.yaml:3): no module would be trained"),
        ("adapter: {kind: none, start_from: a}", "adapter.start_from (run.yaml:3): an adapter to start from"),
        ("run: ../up", "run.name (run.yaml:3): cannot name a folder, got ../up"),
        ("track: [console, console]", "track (run.yaml:3): an entry is listed twice"),
        ("version: 2", "version (run.yaml:3): unknown choice, got 2, expected 1"),
        ("epochs: 3", "epochs (run.yaml:3): not a setting; did you mean train.epochs?"),
        ("lora: {rank: 8}", "lora (run.yaml:3): not a setting; did you mean adapter?"),
        ("optimisation: {epochs: 8}", "optimisation (run.yaml:3): not a setting; did you mean train?"),
        ("presett: demo", "presett (run.yaml:3): not a setting; did you mean preset?"),
        ("preset: [demo]", "preset (run.yaml:3): no such preset, got another kind of value"),
        ("zzz: 1", "zzz (run.yaml:3): not a setting\nhint: the keys here are preset, version"),
        ("zzz: {yyy: 1}", "zzz (run.yaml:3): not a setting\nhint: the keys here are"),
        ("train: 3", "train (run.yaml:3): wrong type, got 3, expected a mapping"),
        ("train: {max_steps: .inf}", "train.max_steps (run.yaml:3): out of range, got Infinity"),
        ("run: {name: ''}", "run.name (run.yaml:3): cannot name a folder"),
        ("checkpoint: {export_every: true}", "checkpoint.export_every (run.yaml:3): wrong type, got true"),
    ],
)
def test_a_fault_says_where_what_and_what_instead(run_file, extra, message):
    [fault] = faults_of(run_file(f"{MINIMAL}{extra}\n"))
    assert fault.startswith(message)


def test_an_empty_name_or_path_is_refused():
    faults = faults_of(None, overrides=["model=", "model.name=''", "data.train=['']"])
    assert faults[0] == 'model.name (--set): empty, got "", expected text that is not empty'
    assert faults[1].startswith("data.train.0.path (--set): empty")


def test_no_adapter_may_keep_adapter_settings(run_file):
    config = load_config(run_file(MINIMAL + "adapter: {rank: 8}\n"), overrides=["adapter=none"]).config
    assert (config.adapter.kind, config.adapter.rank) == ("none", 8)


def test_paths_that_lead_nowhere_are_named(run_file, tmp_path):
    path = run_file(
        "model: ./base\n"
        "adapter: {start_from: old}\n"
        "data:\n  train: [here.jsonl, gone.jsonl]\n  eval: gone-too.jsonl\n  chat_template: gone.jinja\n"
    )
    (tmp_path / "here.jsonl").touch()
    with pytest.raises(ConfigErrors) as caught:
        check_files(load_config(path))
    assert [fault.where for fault in caught.value.errors] == [
        "model.name (run.yaml:1)",
        "adapter.start_from (run.yaml:2)",
        "data.train.1.path (run.yaml:4)",
        "data.eval (run.yaml:5)",
        "data.chat_template (run.yaml:6)",
    ]
    for name in ("base", "old", "gone.jsonl", "gone-too.jsonl", "gone.jinja"):
        (tmp_path / name).touch()
    check_files(load_config(path))


def test_faults_survive_the_way_between_processes(run_file):
    with pytest.raises(ConfigErrors) as caught:
        load_config(run_file("zzz: 1\n"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.exit_code == ExitCode.USER_ERROR


@settings(max_examples=60, deadline=None)
@given(run_configs())
def test_a_dumped_configuration_loads_as_itself(config):
    again = load_config(None, text=dump_config(config)).config
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_the_hash_is_of_values_not_of_how_they_were_written():
    one = load_config(None, text=MINIMAL + "adapter: {alpha: 32, rank: 8}\n").config
    same = load_config(
        None,
        text="data: {train: {path: rows.jsonl}}\nmodel: {name: builtin:tiny}\n"
        "adapter: {rank: 8.0, alpha: 32.0}\n",
    ).config
    other = load_config(None, text=MINIMAL).config
    assert config_hash(one) == config_hash(same) != config_hash(other)


@given(st.text())
def test_any_text_gives_named_faults(text):
    # No text alone is a complete run: Hypothesis would have to write `model` and `data`.
    with pytest.raises(ConfigErrors) as caught:
        load_config(None, text=text)
    assert {fault.code.partition(".")[0] for fault in caught.value.errors} == {"config"}
