"""Every code that the source can raise is explained in docs/reference/errors.md, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tunewright import errors
from tunewright.checkpoint.disk import FAULTS
from tunewright.data.length import Outcome

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "tunewright"
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")

CLASSES = {
    name: kind.family
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.TunewrightError)
}
FAMILIES = sorted(set(CLASSES.values()) - {"error"})
START = re.compile(rf"({'|'.join(FAMILIES)})\.[a-z0-9-]*")
CODE = re.compile(rf"({'|'.join(FAMILIES)})\.[a-z0-9]+(-[a-z0-9]+)*")

# Texts of the source that look like codes and are none.
OTHER = {
    "checkpoint.merge": "a setting",
    "config.json": "a file of a model folder",
    "config.yaml": "a file of a run folder",
    "data.eval": "a setting",
    "data.packing": "a setting",
    "data.thinking": "a setting",
    "data.train": "a setting",
    "engine.json": "a file of a checkpoint",
    "engine.safetensors": "a file of a checkpoint",
    "model.attention": "a setting",
    "model.dtype": "a setting",
    "model.name": "a setting",
    "model.quantization": "a setting",
    "model.safetensors": "a file of a model folder",
    "run.lock": "a file of a run folder",
}

# Codes whose end is computed: file below src, and every end.
BUILT = {
    "checkpoint/disk.py": {end for end, _ in FAULTS.values()} | {"write-failed"},
    "data/row_survey.py": {
        end.replace(" ", "-") for end in get_args(Outcome) if end not in ("kept", "too long")
    },
}


def test_every_code_is_on_the_page_once() -> None:
    listed = re.findall(r"^(?:### |\| )`([a-z]+\.[a-z0-9-]+)`", PAGE, re.MULTILINE)
    raised = codes_of_the_source()
    assert (raised - set(listed), set(listed) - raised) == (set(), set()), "missing on the page, never raised"
    assert len(listed) == len(raised)


def test_every_exit_code_is_on_the_page() -> None:
    section = PAGE.partition("## Exit codes")[2].partition("\n## ")[0]
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert listed >= {code.value for code in errors.ExitCode}


def test_every_code_stands_under_its_family() -> None:
    for section in PAGE.split("\n## ")[2:]:
        family = section.partition(":")[0]
        assert set(re.findall(r"^### `([a-z]+)\.", section, re.MULTILINE)) == {family}


def test_each_text_that_is_no_code_is_still_in_the_source() -> None:
    assert set(OTHER) <= {text for _, tree in modules() for text in texts(tree)}


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("raise DataError('x', code='data.odd')", "data.odd"),
        ("TABLE = {1: ('full', 'run.odd')}", "run.odd"),
        ("raise ModelError('x')", "model.invalid"),
        (
            "def fault(what, code):\n    return RunError(what, code=f'run.{code}')\nfault('x', 'odd')",
            "run.odd",
        ),
        (
            "class A:\n  def add(self, code):\n    E(code=f'data.{code}')\n  def b(self): self.add('odd')",
            "data.odd",
        ),
        ("def f(kind): return E(f'data.no-{kind}')\nf(kind='odd')", "data.no-odd"),
    ],
)
def test_codes_are_found_however_they_are_given(source: str, code: str) -> None:
    assert code in codes_of("any.py", ast.parse(source))


def test_a_code_built_from_an_unknown_value_is_noticed() -> None:
    with pytest.raises(AssertionError, match="odd"):
        codes_of("any.py", ast.parse("def f(x):\n    odd = x + 1\n    return E(code=f'run.{odd}')"))


def codes_of_the_source() -> set[str]:
    return {code for path, tree in modules() for code in codes_of(path, tree)} - set(OTHER)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def codes_of(path: str, tree: ast.Module) -> set[str]:
    """Codes written out, codes that a class gives by default, and codes put together in functions."""
    found = {text for text in texts(tree) if CODE.fullmatch(text)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", None)
        if (
            name in CLASSES
            and name != "ConfigErrors"
            and not any(word.arg == "code" for word in call.keywords)
        ):
            found.add(f"{CLASSES[name]}.invalid")
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for text in (node for node in ast.walk(function) if isinstance(node, ast.JoinedStr)):
            match text.values:
                case [ast.Constant(str(start)), ast.FormattedValue(value)] if START.fullmatch(start):
                    found |= {start + end for end in _ends(path, tree, function, value)}
    return found


def _ends(path: str, tree: ast.Module, function: ast.FunctionDef, value: ast.expr) -> set[str]:
    """What callers in this file give for a parameter; for any other value what BUILT lists."""
    parameters = [argument.arg for argument in function.args.args + function.args.kwonlyargs]
    name = getattr(value, "id", None)
    if name not in parameters:
        assert path in BUILT, f"{path} builds a code of {ast.unparse(value)}: list what it can become"
        return BUILT[path]
    place = parameters.index(name) - (parameters[0] == "self")
    given = {_argument(call, place, name) for call in _calls(tree, function.name)}
    assert given, f"{path}: nobody calls {function.name}"
    return given


def _calls(tree: ast.Module, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name in (
            getattr(node.func, "id", None),
            getattr(node.func, "attr", None),
        ):
            yield node


def _argument(call: ast.Call, place: int, name: str) -> str:
    words = {word.arg: word.value for word in call.keywords}
    value = words[name] if name in words else call.args[place]
    assert isinstance(value, ast.Constant), (
        f"line {call.lineno}: the code {ast.unparse(value)} is no constant"
    )
    return str(value.value)
