"""Write the tables of docs/benchmarks.md from the result files: `python benchmarks/tables.py [--check]`.

Only what stands between `<!-- NAME -->` and `<!-- end -->` is written. With --check nothing is, and the exit
code is 1 when a table differs from its result file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it. Returns the exit code."""
    old = PAGE.read_text(encoding="utf-8")
    new = fill(old, HERE)
    if "--check" in arguments and new != old:
        sys.stderr.write(f"{PAGE} is out of date; run `python benchmarks/tables.py`\n")
        return 1
    if new != old:
        PAGE.write_text(new, encoding="utf-8")
        sys.stdout.write(f"written: {PAGE}\n")
    return 0


def fill(page: str, folder: Path) -> str:
    """The page with its tables made from the result files of a folder; KeyError for a table nobody makes."""

    def table(match: re.Match[str]) -> str:
        name = match[1]
        make, path = TABLES[name], folder / f"{name}.json"
        lines = make(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else [NOT_YET]
        return "\n".join([f"<!-- {name} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


NOT_YET = "Not measured yet."


def cpu_table(result: dict[str, Any]) -> Iterator[str]:
    """Programs, ratios and losses of cpu.json."""
    yield from _origin(result)
    yield f"Model {result['model']}, {result['threads']} threads, {result['rounds']} rounds in turn."
    yield from ("", "| program | tokens/s | per CPU second | peak MiB | MFLOP a token |")
    yield "| --- | ---: | ---: | ---: | ---: |"
    for program in result["programs"].values():
        speeds = f"{program['tokens_per_second']:,.0f} | {program['tokens_per_cpu_second']:,.0f}"
        peak = f"{program['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in program else ""
        work = f"{program['megaflops_per_token']:.0f}" if "megaflops_per_token" in program else ""
        yield f"| {program['label']} | {speeds} | {peak} | {work} |"
    yield from ("", "| bar | measured | asked | |", "| --- | ---: | ---: | --- |")
    for title, ratio in result["ratios"].items():
        bar, kind = result["bars"][title]
        yield f"| {title} | {ratio:.2f} | at {kind} {bar:g} | {_verdict(result['met'][title])} |"
    for name, gap in result["losses"].get("gaps", {}).items():
        bar = result["losses"]["bars"][name]
        title = f"largest relative loss difference to fp32, {name}"
        yield f"| {title} | {gap:.1e} | at most {bar:g} | {_verdict(gap <= bar)} |"


def gpu_table(result: dict[str, Any]) -> Iterator[str]:
    """Cases, bars and the profile of gpu.json."""
    yield from _origin(result)
    yield f"Matrix products reach {result['matmul']['peak'] / 1e12:,.0f} TFLOP/s; MFU is against that."
    yield from ("", "| case | tokens/s | MFU | peak GiB | path, attention |")
    yield "| --- | ---: | ---: | ---: | --- |"
    for case in result["cases"].values():
        if "left_out" in case:
            yield f"| {case['label']} | left out: {case['left_out']} | | | |"
            continue
        how = f"{case['details'].get('path', 'peer')}, {case['details']['attention']}"
        figures = f"{case['tokens_per_second']:,.0f} | {case['mfu']:.0%} | {case['peak_bytes'] / 2**30:.1f}"
        yield f"| {case['label']} | {figures} | {how} |"
    yield from ("", "| bar | measured | at least | |", "| --- | ---: | ---: | --- |")
    for title, bar in result["bars"].items():
        measured = "not judged" if bar["figure"] is None else f"{bar['figure']:,.2f}"
        yield f"| {title} | {measured} | {bar['least']:g} | {_verdict(bar['met'])} |"
    profiles = ((c["label"], c["details"]["profile"]) for c in result["cases"].values() if "details" in c
                and c["details"].get("profile"))  # fmt: skip
    for label, profile in profiles:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in profile["shares"].items())
        yield from ("", f"Device time of {label}: {shares}.")


def mlx_lora_table(result: dict[str, Any]) -> Iterator[str]:
    """Programs and ratios of mlx_lora.json."""
    yield f"{result['device']}, commit {result['commit']}; seconds are those of the {result['seconds']}."
    yield from ("", "| program | tokens/s | peak MiB |", "| --- | ---: | ---: |")
    for name, speed in result["tokens_per_second"].items():
        label = {"ours": "Tunewright", "theirs": "mlx_lm.lora", "theirs_sorted": "mlx_lm.lora, rows sorted"}
        yield f"| {label[name]} | {speed:,.0f} | {result['peak_bytes'][name] / 2**20:,.0f} |"
    yield from ("", "| ratio | measured | bar | |", "| --- | ---: | ---: | --- |")
    for name, ratio in result["ratios"].items():
        bar, title = result["bars"][name], name.replace("_", " ")
        yield f"| {title} | {ratio:.2f} | {bar:g} | {_verdict(result['met'][name])} |"


def startup_table(result: dict[str, Any]) -> Iterator[str]:
    """What startup.json holds."""
    yield from _origin(result)
    yield from ("", "| | measured | at most | |", "| --- | ---: | ---: | --- |")
    titles = {
        "startup_seconds": "seconds from the call to the first step, beside loading the model",
        "data_share": "share of step time spent waiting for data",
    }
    for name, title in titles.items():
        bar = result["bars"][name]
        yield f"| {title} | {result[name]:.3g} | {bar:g} | {_verdict(result['met'][name])} |"


def inference_table(result: dict[str, Any]) -> Iterator[str]:
    """What inference.json holds."""
    yield from _origin(result)
    length = f"{result['prompt_tokens']} tokens of prompt and {result['new_tokens']} of answer"
    yield f"Model {result['model']}, {result['dtype']}, one thread, {length}, {result['rounds']} rounds."
    yield from ("", "| answers at a time | program | tokens/s | against transformers | |")
    yield "| ---: | --- | ---: | ---: | --- |"
    for rows in result["tokens_per_second"]["transformers"]:
        for who, rates in result["tokens_per_second"].items():
            ratio = result["ratios"].get(f"{who}, {rows}")
            judged = (
                " | |" if ratio is None else f" {ratio:.2f} | {_verdict(result['met'][f'{who}, {rows}'])} |"
            )
            yield f"| {rows} | {ANSWERED_BY[who]} | {median(rates[rows]):,.0f} |{judged}"


ANSWERED_BY = {
    "transformers": "transformers' generate",
    "decoder": "Tunewright, in the same process",
    "one call": "Tunewright, one call of the API",
    "streams": "Tunewright, a stream of the API for each",
}


def service_load_table(result: dict[str, Any]) -> Iterator[str]:
    """What service_load.json holds."""
    yield from _origin(result)
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    clients = f"{result['clients']} clients, each every {result['every_seconds']:g} s"
    yield f"{clients}, {result['requests']:,} polls; the job trains with {threads}."
    latency, steps = result["latency_ms"], result["step_ratio_to_static"]
    figures = (
        ("errors", f"{result['errors']}", "errors"),
        ("answered within, half of them and 99 %", f"{latency['p50']:.1f} and {latency['p99']:.0f} ms", None),
        ("CPU of the API process", f"{result['api_cpu_share']:.1%}", "api_cpu_share"),
        ("the same without polls", f"{result['api_cpu_share_without_polls']:.1%}", None),
        ("CPU time of a poll", f"{result['cpu_ms_a_poll']:.2f} ms", None),
        ("step time against a static endpoint", f"{steps:.3f}", None),
        ("memory of the API process", f"{result['api_mib']:.0f} MiB", "api_mib"),
        ("ready after, median of starts", f"{result['ready_seconds']:.2f} s", "ready_seconds"),
    )
    yield from ("", "| | measured | at most | |", "| --- | ---: | ---: | --- |")
    for title, measured, name in figures:
        bar = f" {result['bars'][name]:g} | {_verdict(result['met'][name])} |" if name else " | |"
        yield f"| {title} | {measured} |{bar}"


TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "cpu": cpu_table,
    "cpu_real": cpu_table,
    "gpu": gpu_table,
    "mlx_lora": mlx_lora_table,
    "startup": startup_table,
    "inference": inference_table,
    "service_load": service_load_table,
}


def _origin(result: dict[str, Any]) -> Iterator[str]:
    origin = result["origin"]
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    yield f"{origin['device']}, {origin['cores']} cores, commit {origin['commit']}, {versions}."


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
