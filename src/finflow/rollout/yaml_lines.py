"""YAML of a person into plain values, with the line and column that every value stands at.

The safe subset: no tags, no merge keys, no duplicate keys, numbers and booleans as in JSON (so `no` and
`12:30` stay text), bounded in size, depth and in what its aliases expand to.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

MAX_BYTES: Final = 256 * 1024
_MAX_DEPTH: Final = 40
_MAX_VALUES: Final = 20_000
_TAG: Final = "tag:yaml.org,2002:"
_CORE: Final = (
    ("null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""]),
    ("bool", re.compile(r"^(?:true|false)$"), ["t", "f"]),
    ("int", re.compile(r"^-?(?:0|[1-9][0-9_]*)$"), list("-0123456789")),
    ("float", re.compile(r"^-?(?:0|[1-9][0-9_]*)(?:\.[0-9_]+)?(?:[eE][+-]?[0-9]+)?$"), list("-0123456789")),
)
_PATH: Final = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")


class _Loader(yaml.SafeLoader):
    """Reads scalars as JSON would; YAML 1.1 makes booleans of `on` and numbers of times of day."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)


class Fault(msgspec.Struct, frozen=True, order=True):
    """What is wrong, and where: lines and columns count from 1."""

    line: int
    column: int
    words: str


class Faulty(Exception):
    """The text cannot be read as YAML of this subset."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.words)
        self.fault = fault


class Document(msgspec.Struct, frozen=True):
    """Plain values, and the nodes that they were read from."""

    value: Any
    root: Any

    def where(self, path: str, key: str | None = None) -> tuple[int, int]:
        """Line and column of what a path like `$.steps[0]` names: the key of a field, where it has one."""
        mark = self.root.start_mark
        node = self.root
        steps = [*_steps(path), *([key] if key else [])]
        for step in steps:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
        return mark.line + 1, mark.column + 1


def _steps(path: str) -> Iterator[str | int]:
    for match in _PATH.finditer(path):
        if match["index"] is not None:
            yield int(match["index"])
        elif match["key"] is not None:
            yield match["key"]


def _child(node: Any, step: str | int) -> tuple[Any, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None


def read(data: bytes) -> Document:
    """The document in these bytes. Raises Faulty with the first fault."""
    if len(data) > MAX_BYTES:
        raise Faulty(Fault(1, 1, f"the file is larger than {MAX_BYTES // 1024} KiB"))
    try:
        root = yaml.compose(data.decode(), Loader=_Loader)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Faulty(Fault(line, 1, "the text is not UTF-8")) from error
    except yaml.MarkedYAMLError as error:
        raise Faulty(_marked(error)) from error
    except yaml.YAMLError as error:
        raise Faulty(Fault(1, 1, " ".join(str(error).split()))) from error
    except RecursionError as error:
        raise Faulty(Fault(1, 1, "the values are nested too deep")) from error
    if root is None:
        raise Faulty(Fault(1, 1, "the file is empty"))
    return Document(_Reader().value(root, 0), root)


def _marked(error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    words = " ".join(part for part in (error.context, error.problem) if part)
    return Fault(mark.line + 1, mark.column + 1, words) if mark else Fault(1, 1, words)


class _Reader:
    """Counts what it reads, so that aliases of aliases cannot make gigabytes of a few lines."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def value(self, node: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            raise _fault(node, "the file holds too many values, or nests them too deep")
        if isinstance(node, yaml.MappingNode):
            self._plain(node, "map")
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            self._plain(node, "seq")
            return [self.value(each, depth + 1) for each in node.value]
        return self._scalar(node)

    def _plain(self, node: Any, name: str) -> None:
        if node.tag != _TAG + name:
            raise _fault(node, f"the tag {node.tag.replace(_TAG, '!!')} is not allowed here")

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(key, "a key must be a plain word")
            if key.value in found:
                raise _fault(key, f"the key `{key.value}` stands twice")
            found[key.value] = self.value(value, depth + 1)
        return found

    def _scalar(self, node: Any) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return node.value
        if node.style is not None or kind not in ("null", "bool", "int", "float"):
            raise _fault(node, f"the tag {node.tag.replace(_TAG, '!!')} is not allowed here")
        if kind == "null":
            return None
        if kind == "bool":
            return node.value == "true"
        try:
            return int(node.value) if kind == "int" else float(node.value)
        except ValueError as error:
            raise _fault(node, f"`{node.value[:40]}` is not a number that fits") from error


def _fault(node: Any, words: str) -> Faulty:
    mark = node.start_mark
    return Faulty(Fault(mark.line + 1, mark.column + 1, words))
