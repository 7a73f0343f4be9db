"""Figures, ratios and verdicts from what processes reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
from children import Failed
from cpu_result import BARS, LOSS_STEPS, Measured
from cpu_result import summarize as summarize_cpu
from gpu_cases import gpu_cases
from gpu_result import GpuResult
from kernel_profile import kind_of
from kernel_profile import summarize as summarize_kernels
from measure import Report, Step, Turn, Work

DETAILS: dict[str, Any] = {"device": "a CPU", "path": "fast", "attention": "sdpa"}
PROGRAMS = ("ours", "trl_packed", "trl_packed_held", "trl_defaults")
REAL_PROGRAMS = ("ours_auto", "trl_bf16", "trl_bf16_held")


def report(name: str, losses: list[float], *, tokens: int = 100, seconds: float = 1.0) -> Report:
    work = Work(tokens, tokens // 2, tokens**2)
    return Report(name, [Step(work, seconds, seconds, loss) for loss in losses], 1000, DETAILS)


def measured(speeds: dict[str, list[float]], *, ours_loss: float = 5.0) -> Measured:
    found = Measured("tiny", {name: name for name in speeds}, 2)
    for name, values in speeds.items():
        found.turns[name] = [Turn(int(100 * speed), 100.0, 200.0) for speed in values]
        found.reports[name] = report(name, [5.0] * LOSS_STEPS)
    found.losses = {
        "fp32": report("fp32", [5.0] * LOSS_STEPS),
        "ours": report("ours", [5.0] * (LOSS_STEPS - 1) + [ours_loss]),
    }
    return found


def test_a_ratio_is_that_of_the_medians() -> None:
    speeds = {name: [100.0, 110.0, 5000.0] for name in PROGRAMS} | {"ours": [1.0, 550.0, 560.0]}
    result = summarize_cpu(measured(speeds), seconds=1)
    assert result["ratios"]["speed against TRL packed"] == pytest.approx(5.0)
    assert result["programs"]["ours"]["tokens_per_cpu_second"] == pytest.approx(275.0)
    assert set(result["ratios"]) == {title for title, bar in BARS.items() if bar[0] == "ours"}


@pytest.mark.parametrize("path", ["fast", "plain: its output differs"])
def test_a_real_model_has_bars_of_its_own_and_must_take_the_fast_path(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DETAILS, "path", path)
    speeds = {name: [100.0] * 5 for name in REAL_PROGRAMS} | {"ours_auto": [340.0] * 5}
    found = measured(speeds)
    found.losses = {}
    result = summarize_cpu(found, seconds=1)
    assert set(result["ratios"]) == {title for title, bar in BARS.items() if bar[0] == "ours_auto"}
    assert result["met"]["auto takes the fast path"] is (path == "fast")
    assert not result["met"]["speed against bf16 weights"]
    assert result["met"]["speed against bf16 weights, heap held"]


def test_bars_are_met_from_one_side_only() -> None:
    speeds = {name: [100.0] for name in PROGRAMS} | {"ours": [405.0]}
    met = summarize_cpu(measured(speeds), seconds=1)["met"]
    assert met["speed against TRL packed"]
    assert met["speed against TRL packed, heap held"]
    assert not met["speed against TRL as shipped"]
    # Both use 1,000 bytes.
    assert not met["memory against TRL packed"]


@pytest.mark.parametrize(("rounds", "met"), [(4, False), (5, True)])
def test_a_median_needs_five_rounds(rounds: int, met: bool) -> None:
    result = summarize_cpu(measured({name: [100.0] * rounds for name in PROGRAMS}), seconds=1)
    assert result["met"]["5 rounds"] is met


def test_nothing_is_judged_before_every_process_has_reported() -> None:
    found = measured({name: [100.0] for name in PROGRAMS})
    found.reports = {}
    assert summarize_cpu(found, seconds=1)["met"] == {}


@pytest.mark.parametrize(("loss", "met"), [(5.004, True), (5.006, False)])
def test_losses_are_compared_step_by_step(loss: float, met: bool) -> None:
    result = summarize_cpu(measured({name: [1.0] for name in PROGRAMS}, ours_loss=loss), seconds=1)
    assert result["met"]["losses of ours beside fp32"] is met
    assert result["losses"]["gaps"]["ours"] == pytest.approx(loss / 5 - 1)


def gpu_result(losses: list[float]) -> GpuResult:
    result = GpuResult("cuda", {"device": "H200", "peak": 1e9})
    cases = gpu_cases()
    for name, seconds in (("7b_full_rows", 1.0), ("7b_full_rows_trl", 2.0)):
        steps = cases[name].warm_up + cases[name].steps
        result.add(name, cases[name], report(name, [5.0] * steps, tokens=19_000, seconds=seconds))
    result.add("7b_losses", cases["7b_losses"], report("7b_losses", losses))
    peer = "7b_short_trl_defaults"
    result.add(peer, cases[peer], report(peer, [5.0] * len(losses)))
    result.leave_out("mistral_nf4", cases["mistral_nf4"], "no time was left")
    return result


def test_gpu_bars_are_of_figures_or_of_ratios() -> None:
    summary = gpu_result([5.0, 5.0]).summary()
    assert summary["bars"]["7B, full rows: tokens/s"] == {"least": 18_000, "figure": 19_000, "met": True}
    assert summary["bars"]["7B, full rows: times TRL's best"]["figure"] == pytest.approx(2.0)
    assert summary["bars"]["Mistral-7B on nf4: times LoRA's speed"]["figure"] is None
    assert summary["cases"]["mistral_nf4"]["left_out"] == "no time was left"
    assert summary["losses"]["met"]


def test_gpu_losses_that_differ_are_seen() -> None:
    assert not gpu_result([5.0, 5.1]).summary()["losses"]["met"]


def test_a_bar_that_was_not_judged_is_not_met() -> None:
    assert not gpu_result([5.0, 5.0]).all_met()


def test_profiled_and_first_steps_do_not_count() -> None:
    case = gpu_cases()["7b_full_rows"]
    seconds = [9.0] * case.warm_up + [1.0] * case.steps + [9.0] * 3
    steps = [Step(Work(100, 50, 1e4), one, one, 5.0) for one in seconds]
    result = GpuResult("cuda", {"device": "H200", "peak": 1e9})
    result.add("7b_full_rows", case, Report("x", steps, 1, {**DETAILS, "profiled_steps": 3}))
    found = result.summary()["cases"]["7b_full_rows"]
    assert (found["tokens_per_second"], found["steps"]) == (100.0, case.steps)


def test_a_gpu_case_without_timed_steps_is_a_failed_one_and_not_the_end() -> None:
    case = gpu_cases()["7b_full_rows"]
    with pytest.raises(Failed, match="before the first timed one"):
        gpu_result([5.0]).add("7b_full_rows", case, report("x", [5.0] * case.warm_up))


def test_gpu_losses_of_other_counts_are_not_the_same() -> None:
    result = gpu_result([5.0, 5.0])
    result.add("7b_losses", gpu_cases()["7b_losses"], report("7b_losses", [5.0]))
    assert result.summary()["losses"]["met"] is False


def test_gpu_figures_are_of_the_path_that_a_run_takes_by_itself() -> None:
    for name, case in gpu_cases().items():
        if case.script == "ours.py":
            asked = json.loads(case.arguments[case.arguments.index("--spec") + 1])["kernels"]
            assert asked == ("plain" if name.endswith("_plain") else "auto")


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t>", "attention"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", "4-bit weights"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("triton_poi_fused_mul_silu_3", "elementwise and other"),
        ("aten::addmm_", "matrix products"),
    ],
)
def test_kernels_have_a_kind(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_a_profile_tells_shares_and_idle_time() -> None:
    found = summarize_kernels([("gemm", 0, 40), ("gemm", 30, 60), ("flash", 80, 100)])
    assert found["shares"]["matrix products"] == pytest.approx(0.7)
    assert found["shares"]["attention"] == pytest.approx(0.2)
    assert found["shares"]["idle"] == pytest.approx(0.2)
    assert found["top"][0] == {"name": "gemm", "kind": "matrix products", "share": 0.7, "calls": 2}


def test_a_profile_of_nothing_is_empty() -> None:
    assert summarize_kernels([])["top"] == []
