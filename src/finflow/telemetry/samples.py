"""Reads metrics back from the Prometheus text format, as far as a screen needs them. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)(?: \d+)?")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)",?')
_ESCAPE = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """One line: a name, its labels, a number."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str) -> Iterator[Sample]:
    """Every sample of the text; lines that are none are passed over."""
    for line in text.splitlines():
        found = None if line.startswith("#") else _LINE.fullmatch(line)
        if found is not None:
            name, labels, value = found.groups()
            yield Sample(name, _labels(labels or ""), float(value))


def _labels(text: str) -> dict[str, str]:
    return {name: _ESCAPE.sub(_unescaped, value) for name, value in _LABEL.findall(text)}


def _unescaped(found: "re.Match[str]") -> str:
    return "\n" if found[1] == "n" else found[1]


class Scrape:
    """All samples of one moment, by name and by whichever labels they are asked for."""

    def __init__(self, text: str, at_s: float) -> None:
        self.at_s = at_s
        self._named: dict[str, list[Sample]] = {}
        for sample in parse(text):
            self._named.setdefault(sample.name, []).append(sample)
        # A name's samples by the values of some labels, made when somebody first asks by these: who then asks
        # for each of a thousand tenants does not look a thousand times at all of them.
        self._labelled: dict[tuple[str, ...], dict[tuple[str | None, ...], list[Sample]]] = {}

    def of(self, name: str, **labels: str) -> list[Sample]:
        """The samples of this name that carry these labels."""
        found = self._labelled.get((name, *labels))
        if found is None:
            found = self._labelled[name, *labels] = {}
            for sample in self._named.get(name, ()):
                found.setdefault(tuple(map(sample.labels.get, labels)), []).append(sample)
        return found.get(tuple(labels.values()), [])

    def total(self, name: str, **labels: str) -> float:
        """What they come to."""
        return sum(sample.value for sample in self.of(name, **labels))

    def values(self, name: str, label: str) -> list[str]:
        """The values of a label, in order."""
        return sorted({sample.labels[label] for sample in self.of(name) if label in sample.labels})

    def buckets(self, name: str, **labels: str) -> tuple[tuple[float, ...], list[float]]:
        """A histogram's edges, and how many observations lie in each bucket; the last one has no edge."""
        cumulative: dict[float, float] = {}
        for sample in self.of(f"{name}_bucket", **labels):
            edge = float(sample.labels["le"])
            cumulative[edge] = cumulative.get(edge, 0.0) + sample.value
        counts, below = [], 0.0
        for edge in sorted(cumulative):
            counts.append(cumulative[edge] - below)
            below = cumulative[edge]
        return tuple(edge for edge in sorted(cumulative) if edge != float("inf")), counts
