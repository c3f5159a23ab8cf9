"""A verification's YAML becomes a Spec; what is wrong with it is said with its line."""

import re
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from finflow.kernel.errors import FinFlowError
from finflow.verification.model import faults
from finflow.verification.spec import Spec

MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 50
_PLACE: Final = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")

Lines = dict[tuple[str | int, ...], int]


def shipped(name: str) -> str:
    """The text of a spec that comes with FinFlow."""
    return (resources.files("finflow.verification") / "specs" / f"{name}.yaml").read_text("utf-8")


def load(path: Path) -> Spec:
    """The spec in a file. Raises file_unreadable and verification_malformed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise FinFlowError("file_unreadable", f"{path}: {reason}", "--spec") from error
    if len(data) > MAX_BYTES:
        raise FinFlowError("verification_malformed", f"{path}: it is larger than 1 MiB")
    return parse(text, str(path))


def parse(text: str, source: str = "spec") -> Spec:
    """The spec in a text. Raises verification_malformed, which names source and line."""
    lines: Lines = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise FinFlowError("verification_malformed", f"{source}:1: the file is empty")
        plain = _plain(node, (), lines, source)
        spec = msgspec.convert(plain, Spec)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FinFlowError("verification_malformed", f"{source}:{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise FinFlowError("verification_malformed", f"{source}:1: {error}") from error
    except msgspec.ValidationError as error:
        raise FinFlowError("verification_malformed", _located(str(error), lines, source)) from error
    for index, words in faults(spec):
        line = lines[("checks", index)]
        raise FinFlowError("verification_malformed", f"{source}:{line}: {words}")
    return spec


def _plain(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, source: str) -> Any:
    """The node as Python has it, its line noted under its path; no key twice, nothing too deep."""
    line = lines[path] = node.start_mark.line + 1
    if len(path) > _MAX_DEPTH:
        # An alias that holds itself is endless, too.
        raise FinFlowError("verification_malformed", f"{source}:{line}: it is nested too deep")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each, (*path, index), lines, source) for index, each in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        where = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise FinFlowError("verification_malformed", f"{where}: a key is one word")
        if key in found:
            raise FinFlowError("verification_malformed", f"{where}: {key!r} stands here twice")
        found[key] = _plain(value_node, (*path, key), lines, source)
        lines[(*path, key)] = key_node.start_mark.line + 1
    return found


def _scalar(node: yaml.Node) -> Any:
    # A date that nobody quoted is the text that stands there: JSON has no dates.
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except ValueError:
        # What looks like a number of YAML 1.1 and is none (`0o9`, a time of day) is a text.
        return node.value
    finally:
        loader.dispose()


def _located(message: str, lines: Lines, source: str) -> str:
    """msgspec's sentence with the line of the place that it names."""
    place = _PLACE.search(message)
    path: tuple[str | int, ...] = ()
    for name, number in _STEP.findall(place["path"] if place else ""):
        step: str | int = int(number) if number.isdigit() else name or number
        if (*path, step) not in lines:
            break
        path = (*path, step)
    sentence = _PLACE.sub("", message)
    unknown = re.search(r"unknown field `(\w+)`", sentence)
    if unknown and (*path, unknown[1]) in lines:
        path = (*path, unknown[1])
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    return f"{source}:{lines.get(path, 1)}: {sentence}" + (f" (at {where})" if where else "")
