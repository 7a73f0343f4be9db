"""YAML text to nodes, by the core schema of YAML 1.2, and back. The only file that imports yaml.

PyYAML follows YAML 1.1: it reads `1e-5` as text, `no` as false and `010` as eight. The reader here has its
own rules for plain scalars (PyYAML's global ones stay as they are), remembers the line of each value, and
refuses tags, duplicate keys and texts that grow without bound.
"""

from __future__ import annotations

import re
from typing import Any, cast

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from tunewright.config.node import Node, Scalar
from tunewright.errors import ConfigError, ConfigErrors
from tunewright.types import JsonValue

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
# Counted after aliases are followed, so that nested aliases cannot grow into gigabytes.
MAX_VALUES = 20_000

_PREFIX = "tag:yaml.org,2002:"
_PLAIN_RULES = {
    "null": (re.compile(r"~|null|Null|NULL|"), "~nN\0"),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), "-+0123456789"),
    "float": (
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        "-+.0123456789",
    ),
}


def read_yaml(text: str, name: str | None) -> tuple[Node | None, list[ConfigError]]:
    """The document as nodes (None when it holds nothing), and every duplicate key or tag found in it.

    name: what messages call the text; each origin is `name:line`. None means an override: the origin is
    `--set`. Raises ConfigErrors where the text cannot be read at all.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _fault(
            "too large for a run file", name, None, "too-large", expected=f"at most {MAX_BYTES} bytes"
        )
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{cast(Any, error).character:04X} is not allowed in YAML"
        raise _fault(what, name, line, "syntax") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, name) from None
    if root is None:
        return None, []
    reader = _Reader(name)
    return reader.node(root, 0), reader.faults


class _Loader(yaml.SafeLoader):
    """Composes nodes only, never objects; resolves plain scalars by YAML 1.2 and stops at MAX_DEPTH."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML reads the class attribute
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = cast(Any, self).peek_event()
        if getattr(event, "tag", None):
            raise ComposerError(
                None, None, f"the tag {event.tag.replace(_PREFIX, '!!')} is not allowed", event.start_mark
            )
        if self.depth >= MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} levels inside each other"
            raise ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or YAML 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # Only double quotes keep every kind of line break; the other styles fold some into spaces.
        style = None if data.isprintable() else '"'
        return cast(Any, self).represent_scalar(_PREFIX + "str", data, style=style)


def _add_plain_rules() -> None:
    loader, dumper = cast(Any, _Loader), cast(Any, _Dumper)
    for kind, (pattern, first) in _PLAIN_RULES.items():
        whole = re.compile(rf"(?:{pattern.pattern})\Z")
        starts = ["" if letter == "\0" else letter for letter in first]
        loader.add_implicit_resolver(_PREFIX + kind, whole, starts)
        dumper.add_implicit_resolver(_PREFIX + kind, whole, starts)
    dumper.add_representer(str, _Dumper.represent_str)


_add_plain_rules()


class _Reader:
    """Turns composed nodes into ours and collects what is wrong with them."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.faults: list[ConfigError] = []
        self.count = 0

    def node(self, node: yaml.Node, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            what = f"holds more than {MAX_VALUES} values" if depth <= MAX_DEPTH else "an alias holds itself"
            raise _fault(
                what, self.name, _line(node), "too-large", hint="write the values out without aliases"
            )
        if isinstance(node, yaml.ScalarNode):
            return Node(_scalar(node), self.origin(node))
        if isinstance(node, yaml.SequenceNode):
            return Node([self.node(child, depth + 1) for child in node.value], self.origin(node))
        return Node(self.mapping(node, depth), self.origin(node))

    def mapping(self, node: yaml.Node, depth: int) -> dict[str, Node]:
        values: dict[str, Node] = {}
        pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
        for key, value in pairs:
            if not isinstance(key, yaml.ScalarNode):
                self.report(key, "a key must be text", "syntax")
                continue
            name = str(key.value)
            if name in values:
                hint = f"it is set first in {values[name].origin}; keep one"
                self.report(key, f"the key {name} is set twice", "duplicate-key", hint)
                continue
            child = self.node(value, depth + 1)
            # A block value starts on the line after its key, and the key is what a person looks for.
            values[name] = Node(child.value, self.origin(key))
        return values

    def origin(self, node: yaml.Node) -> str:
        return "--set" if self.name is None else f"{self.name}:{_line(node)}"

    def report(self, node: yaml.Node, what: str, code: str, hint: str | None = None) -> None:
        where = self.origin(node)
        self.faults.append(ConfigError(what, where=where, hint=hint, code=f"config.{code}"))


def _line(node: yaml.Node) -> int:
    mark: Any = node.start_mark
    return int(mark.line) + 1


def _scalar(node: yaml.ScalarNode) -> Scalar:
    text = str(node.value)
    kind = str(node.tag).removeprefix(_PREFIX)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _whole_number(text)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _whole_number(text: str) -> int | str:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    # Python refuses to convert thousands of digits, and no setting is that large.
    return int(text, base) if len(text) <= 100 else text


def _syntax_error(error: yaml.MarkedYAMLError, name: str | None) -> ConfigErrors:
    problem = error.problem or error.context or "not readable"
    # Where a quote or bracket was opened says more than the end of the file.
    at_end = "end" in problem and "stream" in problem
    mark = (error.context_mark if at_end else None) or error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    expected, hint = None, None
    if "'\\t'" in problem:
        problem, hint = "a tab starts this line's text", "indent with spaces"
    elif "mapping values are not allowed" in problem:
        problem, hint = "a second `: ` on this line, or wrong indentation", "quote text that holds `: `"
    elif at_end:
        problem, hint = "something is opened and not closed", "close the quote or bracket"
    elif "another document" in problem:
        problem, expected = "a second document starts here", "one document"
    elif error.context_mark and error.context_mark is not mark:
        hint = f"{error.context} that starts on line {error.context_mark.line + 1}"
    what = problem if problem.startswith(("the tag", "more than")) else f"not valid YAML: {problem}"
    return _fault(what, name, line, "syntax", expected=expected, hint=hint)


def _fault(
    what: str,
    name: str | None,
    line: int | None,
    code: str,
    *,
    expected: str | None = None,
    hint: str | None = None,
) -> ConfigErrors:
    where = "--set" if name is None else name if line is None else f"{name}:{line}"
    error = ConfigError(what, where=where, expected=expected, hint=hint, code=f"config.{code}")
    return ConfigErrors([error])


def write_yaml(value: JsonValue) -> str:
    """Block-style YAML that read_yaml, and any YAML 1.1 reader, reads back as `value`, keys in order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
