"""What a verification decides, without doing anything: variables, comparisons, order, the word at the end."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

import msgspec

from finflow.kernel.errors import EXIT_DONE, EXIT_NO, EXIT_UNREACHABLE
from finflow.verification.spec import AnyCheck, HttpCheck, Spec

BUILT_IN: Final = frozenset({"run", "now", "url"})
MASK: Final = "***"
# Masking a secret of one letter would mask every text that there is.
_SHORTEST_SECRET: Final = 4
_MARK: Final = re.compile(r"\$\$\{|\$\{(?P<name>[^}]*)\}")
_SHOWN: Final = 300


class Missing(Exception):
    """A variable that a check uses has no value; `name` is it, as it is written."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


class Failed(Exception):
    """What a check found is not as it must be; the sentence says what was found and what was expected."""


class Unanswered(Failed):
    """Nobody answered: no connection, or nothing before the time was up."""


class NothingToCheck(Exception):
    """The check found nothing that it could look at; the sentence says what it looked for."""


class Status(StrEnum):
    """What became of a check. SKIPPED has not run: something that it needs was not given, or failed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One check's result. `answered` is False when the check asked the service and heard nothing at all."""

    id: str
    kind: str
    title: str
    tags: Sequence[str]
    status: Status
    words: str
    duration_s: float
    answered: bool | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: outcomes in the order of the spec."""

    name: str
    url: str
    run: str
    at: str
    duration_s: float
    outcomes: Sequence[Outcome]

    def count(self, status: Status) -> int:
        return sum(each.status is status for each in self.outcomes)

    @property
    def unreachable(self) -> bool:
        """Whether the service was asked, and never answered."""
        heard = [each.answered for each in self.outcomes if each.answered is not None]
        return bool(heard) and not any(heard)

    def passed(self, *, strict: bool = False) -> bool:
        """Whether something was checked, nothing failed, and (`strict`) nothing was left out."""
        whole = not (strict and self.count(Status.SKIPPED))
        return whole and not self.count(Status.FAILED) and self.count(Status.PASSED) > 0

    def exit_code(self, *, strict: bool = False) -> int:
        """0 passed, 1 not, 3 when the service never answered."""
        if self.unreachable:
            return EXIT_UNREACHABLE
        return EXIT_DONE if self.passed(strict=strict) else EXIT_NO


# --- variables ---


def filled(value: Any, values: Mapping[str, str], environ: Mapping[str, str]) -> Any:
    """The value with every `${name}` and `${env.NAME}` in its texts replaced. Raises Missing."""
    if isinstance(value, str):
        return _MARK.sub(lambda mark: _value_of(mark, values, environ), value)
    if isinstance(value, Mapping):
        return {filled(key, values, environ): filled(each, values, environ) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled(each, values, environ) for each in value]
    return value


def _value_of(mark: re.Match[str], values: Mapping[str, str], environ: Mapping[str, str]) -> str:
    name = mark["name"]
    if name is None:
        return "${"
    found = environ.get(name[4:]) if name.startswith("env.") else values.get(name)
    if not found:
        raise Missing(name)
    return found


def names_in(value: Any) -> Iterator[str]:
    """Every name that a value's texts refer to."""
    if isinstance(value, str):
        yield from (mark["name"] for mark in _MARK.finditer(value) if mark["name"] is not None)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from names_in(key)
            yield from names_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from names_in(each)


def used_by(check: AnyCheck) -> set[str]:
    """The variables that a check uses."""
    return set(names_in(msgspec.to_builtins(check)))


def captured_by(check: AnyCheck) -> set[str]:
    """The variables that a check gives to others."""
    return {*check.capture, *check.capture_headers} if isinstance(check, HttpCheck) else set()


# --- order ---


def faults(spec: Spec) -> Iterator[tuple[int, str]]:
    """What is wrong with a spec beyond its form: the check's index and a sentence, first things first."""
    ids = [check.id for check in spec.checks]
    known = {*BUILT_IN, *spec.inputs, *spec.variables, *(n for c in spec.checks for n in captured_by(c))}
    makers: dict[str, str] = {}
    for index, check in enumerate(spec.checks):
        if check.id in ids[:index]:
            yield index, f"there are two checks {check.id!r}"
        for name in sorted(set(check.after) - set(ids)):
            yield index, f"{check.id!r} is to run after {name!r}, which is not a check"
        for name in sorted(captured_by(check)):
            if name in makers or name in BUILT_IN:
                yield index, f"{check.id!r} captures {name!r}, which has a value already"
            makers[name] = check.id
        for name in sorted(used_by(check) - known):
            if not name.startswith("env."):
                yield index, f"{check.id!r} uses ${{{name}}}, which is no input, variable or capture"
        yield from ((index, words) for words in _own_faults(check))
    waits = dependencies(spec)
    for index, check in enumerate(spec.checks):
        if check.id in _reachable(check.id, waits):
            yield index, f"{check.id!r} waits for itself"


def _own_faults(check: AnyCheck) -> Iterator[str]:
    if check.__struct_config__.tag == "http":
        if (getattr(check, "path", None) is None) == (getattr(check, "url", None) is None):
            yield f"{check.id!r} needs either a path or a url"
        bodies = (getattr(check, "form", None), getattr(check, "body", None))
        given = sum(each is not None for each in bodies) + (getattr(check, "json", None) is not msgspec.UNSET)
        if given > 1:
            yield f"{check.id!r} has more than one of json, form and body"
    statements = [
        *getattr(check, "statements", []),
        getattr(getattr(check, "reading", None), "statement", ""),
    ]
    if any(True for each in statements for _ in names_in(each)):
        yield f"{check.id!r} has a variable in its SQL: write $1 and name the variable in arguments"
    if check.__struct_config__.tag == "progress" and (
        (getattr(check, "advances_by", None) is None) == (getattr(check, "at_most", None) is None)
    ):
        yield f"{check.id!r} needs either advances_by or at_most"
    if check.__struct_config__.tag == "heartbeat" and (
        (getattr(check, "seen", None) is None) == (getattr(check, "listen_port", None) is None)
    ):
        yield f"{check.id!r} needs either seen or listen_port"


def dependencies(spec: Spec) -> dict[str, set[str]]:
    """Which checks each one waits for: those that it names, and those whose captures it uses."""
    maker = {name: check.id for check in spec.checks for name in captured_by(check)}
    return {
        check.id: {*check.after, *(maker[name] for name in used_by(check) if name in maker)}
        for check in spec.checks
    }


def _reachable(start: str, waits: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    open_ends = list(waits.get(start, ()))
    while open_ends:
        name = open_ends.pop()
        if name not in seen:
            seen.add(name)
            open_ends.extend(waits.get(name, ()))
    return seen


def selected(spec: Spec, tags: Iterable[str]) -> list[AnyCheck]:
    """The checks with any of these tags, all that those wait for, and what cleans up after them.

    Without tags, all of them.
    """
    wanted = set(tags)
    if not wanted:
        return list(spec.checks)
    waits = dependencies(spec)
    chosen = {check.id for check in spec.checks if wanted & set(check.tags)}
    chosen |= {name for each in set(chosen) for name in _reachable(each, waits)}
    cleaning = {check.id for check in spec.checks if check.cleans_up and waits[check.id]}
    while more := {name for name in cleaning - chosen if waits[name] <= chosen}:
        chosen |= more
    return [check for check in spec.checks if check.id in chosen]


# --- comparisons ---


def at(document: Any, pointer: str) -> Any:
    """What stands at an RFC 6901 pointer. Raises KeyError with the part that is not there."""
    found = document
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise KeyError(name)
    return found


def difference(expected: Any, found: Any, where: str = "") -> str | None:
    """The first place where `found` does not contain `expected`, as a sentence; None if it does.

    A mapping may have more keys than expected, a list has as many items, and true is not 1.
    """
    if isinstance(expected, Mapping):
        return _mapping_difference(expected, found, where)
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return f"{where or '/'} is {shown(found)}, not {shown(expected)}"
        pairs = zip(expected, found, strict=True)
        return _first(difference(one, other, f"{where}/{i}") for i, (one, other) in enumerate(pairs))
    if isinstance(expected, bool) is not isinstance(found, bool) or expected != found:
        return f"{where or '/'} is {shown(found)}, not {shown(expected)}"
    return None


def _mapping_difference(expected: Mapping[str, Any], found: Any, where: str) -> str | None:
    if not isinstance(found, Mapping):
        return f"{where or '/'} is {shown(found)}, not an object"
    for key, value in expected.items():
        if key not in found:
            return f"{where}/{key} is missing"
        if (words := difference(value, found[key], f"{where}/{key}")) is not None:
            return words
    return None


def _first(words: Iterable[str | None]) -> str | None:
    return next((each for each in words if each is not None), None)


def shown(value: Any) -> str:
    """A value for a sentence: as JSON, and not too much of it."""
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


_SAMPLE: Final = re.compile(
    r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?$"
)
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')


def metric_sum(text: str, metric: str, labels: Mapping[str, str]) -> float | None:
    """The sum of a metric's samples that have these labels, in Prometheus' text format; None if none has."""
    found: list[float] = []
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample["name"] != metric:
            continue
        its = {name: _unescaped(value) for name, value in _LABEL.findall(sample["labels"] or "")}
        if labels.items() <= its.items():
            found.append(float(sample["value"]))
    usable = [each for each in found if not math.isnan(each)]
    return sum(usable) if usable else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda mark: "\n" if mark[1] == "n" else mark[1], text)


# --- secrets ---


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without any of these secrets, as they are, in URLs or in JSON; longest first."""
    forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield msgspec.json.encode(secret).decode()[1:-1]
