import weakref
from types import SimpleNamespace

import pytest
import torch

from tunewright.engines.torch import device as subject
from tunewright.errors import EngineError, EngineOutOfMemory, ExitCode

CPU = torch.device("cpu")


def _with_cuda(monkeypatch, count, major=9):
    properties = SimpleNamespace(name="GPU", total_memory=80, major=major)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1", "mps", "tpu"])
def test_absent_device_has_a_hint(wanted, monkeypatch):
    _with_cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EngineError) as caught:
        subject.detect_device(wanted)
    assert caught.value.code == "engine.no-device"
    assert caught.value.hint
    assert wanted in str(caught.value)


def test_cuda_number_out_of_range(monkeypatch):
    _with_cuda(monkeypatch, 2)
    assert subject.detect_device("cuda:1").device == "cuda:1"
    for wanted in ("cuda:2", "cuda:x"):
        with pytest.raises(EngineError, match="cuda:1"):
            subject.detect_device(wanted)


def test_auto_prefers_cuda_then_mps(monkeypatch):
    _with_cuda(monkeypatch, 1)
    assert subject.detect_device("auto").device == "cuda:0"
    _with_cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(subject, "_computes_on_mps", lambda dtype: dtype != torch.bfloat16)
    assert subject.detect_device("auto").dtypes == ("fp32", "fp16")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert subject.detect_device("auto").device == "cpu"


def test_old_gpus_have_no_bf16(monkeypatch):
    _with_cuda(monkeypatch, 1, major=7)
    assert subject.detect_device("cuda").dtypes == ("fp32", "fp16")


def test_mps_probe_says_no_without_mps():
    assert not subject._computes_on_mps(torch.float32)


def test_real_allocator_failure_becomes_out_of_memory():
    with (
        pytest.raises(EngineOutOfMemory, match="micro_batch_size") as caught,
        subject.raise_out_of_memory(CPU),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY


def test_out_of_memory_frees_what_the_failed_call_held():
    kept = []

    def fail():
        tensor = torch.ones(3)
        kept.append(weakref.ref(tensor))
        torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(EngineOutOfMemory) as caught, subject.raise_out_of_memory(CPU):
        fail()
    assert caught.value.code == "engine.out-of-memory"
    assert kept[0]() is None


def test_device_allocator_failure_becomes_out_of_memory():
    with pytest.raises(EngineOutOfMemory), subject.raise_out_of_memory(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), subject.raise_out_of_memory(CPU):
        raise RuntimeError("shapes")


def test_memory_of_the_process():
    assert subject.memory_used_bytes(CPU) > 2**24


def test_a_library_that_gets_no_workspace_is_out_of_memory():
    said = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert subject.is_out_of_memory(RuntimeError(said))
    assert not subject.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE"))
