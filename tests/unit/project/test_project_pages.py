"""What the pages point at is there, and the run files that they show load."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from tunewright.cli import data as data_commands
from tunewright.config.load import check_files, load_config
from tunewright.config.schema import DataConfig, ModelConfig, RunConfig, SourceConfig, TrainConfig
from tunewright.engines.registry import ENGINES

ROOT = Path(__file__).parents[3]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SAMPLE_DATA = "rows.jsonl"


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(page: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """The names by which a browser finds the headings of a page, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_links_lead_somewhere(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    broken: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_anchors_are_named_as_a_browser_names_them() -> None:
    assert anchors("# A page\n## `data.eval-leak`: why?\n## A page\n```\n# none\n```\n") == {
        "a-page",
        "dataeval-leak-why",
        "a-page-1",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads_and_its_files_are_there(path: Path) -> None:
    check_files(load_config(path))


def shown_run_files() -> list[tuple[str, str]]:
    """Every YAML block of a page, with its page."""
    block = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(shown(path), text) for path in PAGES for text in block.findall(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "text"), shown_run_files())
def test_a_run_file_shown_on_a_page_loads(page: str, text: str) -> None:
    given = yaml.safe_load(text)
    missing = [] if "model" in given else ["model=builtin:tiny"]
    if "train" not in given.get("data", {}):
        missing.append(f"data.train={SAMPLE_DATA}")
    load_config(None, text=text, overrides=missing)


def test_the_engines_on_offer_are_those_of_the_table() -> None:
    assert set(get_args(RunConfig.model_fields["engine"].annotation)) == {"auto", *ENGINES}


def test_the_number_formats_on_offer_are_those_of_the_engine() -> None:
    from tunewright.engines.torch.precision import DTYPES

    for section, name in ((ModelConfig, "dtype"), (TrainConfig, "precision")):
        assert set(get_args(section.model_fields[name].annotation)) == {"auto", *DTYPES}


def test_the_data_commands_offer_what_the_run_file_does() -> None:
    offered = {
        "format_": SourceConfig.model_fields["format"],
        "overlong": DataConfig.model_fields["overlong"],
        "train_on": DataConfig.model_fields["train_on"],
        "thinking": DataConfig.model_fields["thinking"],
    }
    for command in (data_commands.check, data_commands.show):
        taken = get_type_hints(command, include_extras=True)
        for name in offered.keys() & taken.keys():
            assert get_args(get_args(taken[name])[0]) == get_args(offered[name].annotation), name
