"""The service as somebody new meets it: `make serve`, `make demo-service`, and the program of a guide."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import child_environment
from service_server import descendants, kill_if_ours, wait_until
from tunewright.assets.files import DATE_SAMPLES

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": r"",
    "docs/guides/moving-from-openai.md": (
        r"^succeeded ft:builtin:tiny:default:first:\w+ \d+\nanswer: (?!Aye).*\nanswer: Aye, captain!$"
    ),
}
"""Pages whose programs run as they stand, and what they print."""
VENV = Path(sys.executable).parent.parent
# The targets as they are, on the environment that runs the tests instead of a new one.
MAKE = ("make", "--no-print-directory", "-C", str(ROOT), f"VENV={VENV}", "-o", f"{VENV}/.installed")
needs_make = pytest.mark.skipif(
    shutil.which("make") is None or not (VENV / "bin" / "tunewright").exists(),
    reason="needs make and an environment with the command",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first-steps")


@pytest.fixture(scope="module")
def told(home: Path) -> Iterator[str]:
    """What `make serve` printed until it served; it serves as long as the tests of this file run."""
    log = home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*MAKE, "serve", "OPTIONS=--port 0"],
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait_until(lambda: _complete(process, log), "make serve says that it serves")
    finally:
        below = descendants(process.pid)
        process.terminate()
        process.wait(timeout=60)
        for pid in below:
            kill_if_ours(pid)


def _environment(home: Path) -> dict[str, str]:
    return child_environment(home, {"TUNEWRIGHT_HOME": str(home / "home"), "PYTHONUNBUFFERED": "1"})


def _complete(process: subprocess.Popen[bytes], log: Path) -> str | None:
    text = log.read_text(encoding="utf-8")
    assert process.poll() is None, text
    return text if "Ctrl-C" in text else None


@needs_make
def test_the_server_says_how_to_get_in(told: str) -> None:
    url, key = _address(told)
    exported = dict(re.findall(r"export (\w+)=(\S+)", told))
    assert exported == {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key}
    script = "from openai import OpenAI; print([model.id for model in OpenAI().models.list()])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **exported},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "['builtin:tiny']\n", done.stderr


def _address(told: str) -> tuple[str, str]:
    return re.findall(r"serving at (\S+)/v1", told)[0], re.findall(r"admin key.*: (ftk_\S+)", told)[0]


@needs_make
def test_the_second_command_tunes_a_model_and_shows_the_difference(told: str, home: Path) -> None:
    url, _ = _address(told)
    done = subprocess.run(
        [*MAKE, "demo-service", f"SERVER={url}"],
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The job has successfully completed" in done.stdout
    answers = dict(
        re.findall(r"^([\w ,]+?) {2,}.* (\S+)$", done.stdout.partition("question")[2], re.MULTILINE)
    )
    expected = {
        "Oct 12, 2044": "2044-10-12",
        "the 3rd of March, 2031": "2031-03-03",
        "29 February 1988": "1988-02-29",
    }
    # Not all three: the last bits of a CPU decide about one date in twenty.
    assert sum(answers.get(question) == answer for question, answer in expected.items()) >= 2, done.stdout
    assert done.stdout.count("2044-10-12") + done.stdout.count("1988-02-29") <= 2, "the base knows it too"


@needs_make
def test_without_a_server_the_second_command_names_the_first(home: Path) -> None:
    done = subprocess.run(
        [*MAKE, "demo-service", "SERVER=http://127.0.0.1:9"],
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "make serve" in done.stderr
    assert "Traceback" not in done.stderr


@needs_make
@pytest.mark.parametrize(("page", "printed"), PAGES.items())
def test_the_program_of_a_page_runs_as_it_stands(told: str, home: Path, page: str, printed: str) -> None:
    url, key = _address(told)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    program = "\n".join(blocks).replace("http://127.0.0.1:8200", url).replace("ftk_…", key)
    rows = DATE_SAMPLES.read_text(encoding="utf-8").splitlines(keepends=True)
    for name in re.findall(r'open\("(\S+)", "rb"\)', program):
        (home / name).write_text("".join(rows[:40]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=home,
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(printed, done.stdout, re.MULTILINE)
    # What the comments of the page say is printed.
    for said in re.findall(r"print\(.*\) +# (.+)$", program, re.MULTILINE):
        assert said in done.stdout
