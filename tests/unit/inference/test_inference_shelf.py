from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from families import make_family
from tunewright.errors import EngineError
from tunewright.inference.serving.loop import Loop
from tunewright.inference.serving.reader import Reader
from tunewright.inference.serving.request import ModelName, read_ask
from tunewright.inference.serving.shelf import Shelf, ShelfFull

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
AMPLE = 2**30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_family("llama", tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ModelName]:
    found = []
    for number in range(3):
        folder = tmp_path_factory.mktemp(f"adapter{number}")
        torch.manual_seed(number)
        config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
        found.append(ModelName(f"tuned-{number}", str(base), folder))
    return found


def _plain(base: Path) -> ModelName:
    return ModelName("plain", str(base), None)


def test_adapters_come_and_go_over_one_base(base: Path, adapters: list[ModelName]) -> None:
    ample = Shelf(AMPLE, "cpu")
    for model in adapters:
        ample.take(model, ())
    assert ample.names() == [str(base), "tuned-0", "tuned-1", "tuned-2"]
    # Room for the base and two adapters, with a little to spare for the rounding of files.
    one = (ample.bytes - _bytes_of_base(base)) // 3
    shelf = Shelf(ample.bytes - one // 3, "cpu")
    for model in (adapters[0], adapters[1], adapters[0], adapters[2]):
        shelf.take(model, ())
    assert shelf.names() == [str(base), "tuned-0", "tuned-2"]
    with pytest.raises(ShelfFull):
        shelf.take(adapters[1], (adapters[0], adapters[2]))
    shelf.forget("tuned-0")
    assert shelf.names() == [str(base), "tuned-2"]


def _bytes_of_base(base: Path) -> int:
    shelf = Shelf(AMPLE, "cpu")
    shelf.take(_plain(base), ())
    return shelf.bytes


def test_a_model_that_never_fits_is_refused(base: Path) -> None:
    with pytest.raises(EngineError) as caught:
        Shelf(1000, "cpu").take(_plain(base), ())
    assert caught.value.code == "engine.inference-memory"


def test_bases_make_room_for_each_other(base: Path, tmp_path) -> None:
    other = ModelName("other", str(make_family("llama", tmp_path / "other")), None)
    (Path(other.base) / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    shelf = Shelf(int(1.5 * _bytes_of_base(base)), "cpu")
    shelf.take(_plain(base), ())
    with pytest.raises(ShelfFull):
        shelf.take(other, (_plain(base),))
    shelf.take(other, ())
    assert shelf.names() == [other.base]


def test_requests_of_several_models_are_answered_side_by_side(base: Path, adapters: list[ModelName]) -> None:
    events: queue.Queue[dict] = queue.Queue()
    loop = Loop(Shelf(AMPLE, "cpu"), lambda told: [events.put(event) for event in told], cache_bytes=AMPLE)
    reader = Reader(loop.add, lambda job_id, error: events.put({"id": job_id, "event": "error", "is": error}))
    threading.Thread(target=loop.run, daemon=True).start()

    def ask(name: str, model: ModelName, limit: int, **more) -> None:
        place = {"name": model.name, "base": model.base, "folder": model.folder}
        given = {"prompt": [5, 6, 7], "limit": limit, "options": {"logit_bias": {"3": -100}}, **more}
        reader.put(read_ask({"id": name, **place, **given}))

    ask("long", _plain(base), 300)
    ask("short", adapters[0], 4)
    ask("wrong", adapters[1], 4, prompt=[10**6])
    ask("bad", ModelName("none", "/nowhere", None), 4)
    order = []
    while len(order) < 4:
        event = events.get(timeout=60)
        if event["event"] in ("done", "error"):
            order.append((event["id"], event["event"]))
    # A short answer does not wait for the end of a long one.
    assert order[-1] == ("long", "done")
    assert set(order) == {("long", "done"), ("short", "done"), ("wrong", "error"), ("bad", "error")}
    ask("left", _plain(base), 400)
    while events.get(timeout=60)["event"] != "text":
        pass
    loop.cancel("left")
    ask("after", _plain(base), 2)
    told = []
    while not told or told[-1] != ("after", "done"):
        event = events.get(timeout=60)
        told.append((event["id"], event["event"]))
    assert ("left", "done") not in told


def test_the_process_is_limited() -> None:
    code = (
        "from tunewright.inference.serving.limits import limit_process\n"
        "import resource\n"
        "limit_process('cpu', 2**30)\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    core, data = map(int, found.stdout.split())
    assert core == 0
    if sys.platform == "linux":
        assert data == 7 * 2**30
