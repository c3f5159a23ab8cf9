"""A verification's YAML becomes a Spec; what is wrong with it is said with its line."""

import re
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout import yaml_lines
from finflow.verification.model import faults
from finflow.verification.spec import Spec

_PLACE: Final = re.compile(r" - at `(?:key in )?(?P<path>\$[^`]*)`$")
_UNKNOWN: Final = re.compile(r"unknown field `(\w+)`")


def shipped(name: str) -> str:
    """The text of a spec that comes with FinFlow."""
    return (resources.files("finflow.verification") / "specs" / f"{name}.yaml").read_text("utf-8")


def load(path: Path) -> Spec:
    """The spec in a file. Raises file_unreadable and verification_malformed."""
    try:
        with path.open("rb") as file:
            # One byte more than is allowed shows that there is more.
            data = file.read(yaml_lines.MAX_BYTES + 1)
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}", "--spec") from error
    return parse(data, str(path))


def parse(text: str | bytes, source: str = "spec") -> Spec:
    """The spec in a text. Raises verification_malformed, which names source and line."""
    try:
        document = yaml_lines.read(text.encode() if isinstance(text, str) else text)
    except yaml_lines.Faulty as error:
        raise _malformed(source, error.fault.line, error.fault.words) from error
    try:
        spec = msgspec.convert(document.value, Spec)
    except msgspec.ValidationError as error:
        raise _located(str(error), document, source) from error
    for index, words in faults(spec):
        raise _malformed(source, document.where(f"$.checks[{index}]")[0], words)
    return spec


def _located(message: str, document: yaml_lines.Document, source: str) -> FinFlowError:
    """msgspec's sentence with the line of the place that it names."""
    place = _PLACE.search(message)
    path = place["path"] if place else "$"
    unknown = _UNKNOWN.search(message)
    line, _ = document.where(path, unknown[1] if unknown else None)
    where = f" (at {path[2:]})" if len(path) > 2 else ""
    return _malformed(source, line, f"{_PLACE.sub('', message)}{where}")


def _malformed(source: str, line: int, words: str) -> FinFlowError:
    return FinFlowError("verification_malformed", f"{source}:{line}: {words}")
