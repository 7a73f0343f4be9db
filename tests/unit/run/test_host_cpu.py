"""What a CPU trains in, from the system's own page: the same answer for the planner and the engines."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright import host_cpu
from tunewright.engines.registry import detect_device
from tunewright.host_cpu import cpu_dtypes, cpu_name
from tunewright.run.devices import find_device

X86 = "processor\t: 0\nmodel name\t: some CPU\nflags\t\t: fpu sse2 {}\nbugs\t: avx512_bf16\n"


@pytest.mark.parametrize(
    ("text", "dtypes"),
    [
        (X86.format("avx512f avx512_bf16"), ("fp32", "bf16")),
        (X86.format("amx_tile amx_bf16 amx_int8"), ("fp32", "bf16")),
        (X86.format("avx512f avx512_bf16_not"), ("fp32",)),
        (X86.format("avx2"), ("fp32",)),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 sve\n", ("fp32",)),
        ("", ("fp32",)),
        (None, ("fp32",)),
    ],
)
def test_bf16_where_x86_multiplies_it(
    text: str | None, dtypes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "cpuinfo"
    if text is not None:
        page.write_text(text)
    monkeypatch.setattr(host_cpu, "CPU_INFO", page)
    assert cpu_dtypes() == dtypes
    assert find_device("cpu").facts_for("torch").dtypes == dtypes
    assert detect_device("torch", "cpu").dtypes == dtypes


def test_the_name_is_the_makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cpu, "CPU_INFO", tmp_path / "cpuinfo")
    assert cpu_name() == (platform.processor() or platform.machine())
    (tmp_path / "cpuinfo").write_text(X86)
    assert cpu_name() == "some CPU"


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_this_machine_is_seen_as_torch_sees_it() -> None:
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    assert ("bf16" in cpu_dtypes()) == any(getattr(torch.cpu, name)() for name in names)


def test_mlx_computes_in_fp32_on_a_cpu() -> None:
    pytest.importorskip("mlx.core")
    assert find_device("cpu").facts_for("mlx").dtypes == detect_device("mlx", "cpu").dtypes == ("fp32",)


@pytest.mark.skipif(platform.system() != "Linux", reason="torch brings GNU OpenMP on Linux")
@pytest.mark.parametrize(("variables", "seen"), [({}, "5000"), ({"GOMP_SPINCOUNT": "77"}, "77")])
def test_threads_of_a_command_sleep_soon_unless_the_user_says_otherwise(
    variables: dict[str, str], seen: str
) -> None:
    code = "from tunewright.cli.main import run; run(['--version']); import torch"
    environ = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environ |= {"OMP_DISPLAY_ENV": "VERBOSE", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert f"GOMP_SPINCOUNT = '{seen}'" in done.stderr
