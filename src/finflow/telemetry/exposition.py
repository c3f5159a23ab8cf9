"""What is counted, as text: OpenMetrics 1.0 or Prometheus 0.0.4, whichever the reader prefers.

OpenMetrics also says when counting began, and names traces beside the buckets that they fell into.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Final

from finflow.telemetry.collecting import Collector
from finflow.telemetry.merging import Exemplar, Merged, MergedFamily

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
# Lines between two looks at whether others wait for the thread.
_LINES_AT_ONCE: Final = 400
_AT_ONCE_S: Final = 0.001
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics (of a version we write) to plain text; equal: it does."""
    open_q, text_q = 0.0, 0.0
    for part in accept.lower().split(","):
        media_type, *parameters = (each.strip() for each in part.split(";"))
        named = dict(each.split("=", 1) for each in parameters if "=" in each)
        q = _quality(named.get("q", "1"))
        if media_type == "application/openmetrics-text" and named.get("version", "1.0.0") == "1.0.0":
            open_q = max(open_q, q)
        elif media_type in ("text/plain", "text/*", "*/*"):
            text_q = max(text_q, q)
    return open_q > 0 and open_q >= text_q


def _quality(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


class Exposition:
    """The text of what a collector finds, made a little at a time; readers that come at once share none."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._one = asyncio.Lock()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its media type. Lets other tasks run every millisecond."""
        openmetrics = wants_openmetrics(accept)
        parts: list[str] = []
        async with self._one:
            since = perf_counter()
            for part in pieces(self._collector, openmetrics):
                parts.append(part)
                if perf_counter() - since > _AT_ONCE_S:
                    await asyncio.sleep(0)
                    since = perf_counter()
        return "".join(parts).encode(), OPENMETRICS if openmetrics else PROMETHEUS


def pieces(collector: Collector, openmetrics: bool) -> Iterator[str]:
    """The text in order, in pieces of at most a few hundred series."""
    found: list[MergedFamily] = []
    for families in collector.collect():
        found = families
        yield ""
    for family in sorted(found, key=lambda each: each.declaration.name):
        yield _head(family, openmetrics)
        present = list(family.series.values())
        at_once = max(1, _LINES_AT_ONCE // (family.width + 1))
        for start in range(0, len(present), at_once):
            yield "".join(_lines(family, present[start : start + at_once], openmetrics))
    if openmetrics:
        yield "# EOF\n"


def _head(family: MergedFamily, openmetrics: bool) -> str:
    declaration = family.declaration
    name, kind = declaration.name, str(declaration.kind)
    if not openmetrics:
        name, kind = {"counter": (f"{name}_total", kind), "info": (f"{name}_info", "gauge")}.get(
            kind, (name, kind)
        )
    unit = f"# UNIT {name} {declaration.unit}\n" if openmetrics and declaration.unit else ""
    return f"# HELP {name} {declaration.help.translate(_HELP_ESCAPES)}\n# TYPE {name} {kind}\n{unit}"


def _lines(family: MergedFamily, series: Iterable[Merged], openmetrics: bool) -> Iterator[str]:
    kind = family.declaration.kind
    if kind == "histogram":
        for each in series:
            yield _histogram(family, each, openmetrics)
    elif kind == "counter" and openmetrics:
        for each in series:
            total, created = each.line or _prefixes(family, each)
            yield f"{total}{number(each.numbers[0])}\n{created}{each.born_s:.6f}\n"
    else:
        for each in series:
            yield f"{(each.line or _prefixes(family, each))[0]}{number(each.numbers[0])}\n"


def number(value: float) -> str:
    """A number as both formats write it."""
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _prefixes(family: MergedFamily, series: Merged) -> list[str]:
    """The text before each of a series' numbers; made once and kept with the series."""
    name, kind = family.declaration.name, family.declaration.kind
    pairs = zip(family.labels, series.values, strict=True)
    labels = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in pairs)
    braced = f"{{{labels}}}" if labels else ""
    if kind == "histogram":
        separated = f"{labels}," if labels else ""
        edges = [*map(number, family.declaration.edges), "+Inf"]
        lines = [f'{name}_bucket{{{separated}le="{edge}"}} ' for edge in edges]
        series.line = [*lines, *(f"{name}_{part}{braced} " for part in ("count", "sum", "created"))]
    else:
        suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
        series.line = [f"{name}{suffix}{braced} ", f"{name}_created{braced} "]
    return series.line


def _histogram(family: MergedFamily, series: Merged, openmetrics: bool) -> str:
    """Cumulative buckets, the count that is the last of them, the sum."""
    *buckets, count_at, sum_at, created_at = series.line or _prefixes(family, series)
    parts, running = [], 0.0
    for place, prefix in enumerate(buckets):
        running += series.numbers[place]
        exemplar = series.exemplars.get(place) if openmetrics else None
        parts.append(f"{prefix}{number(running)}{_exemplar(exemplar)}\n")
    parts.append(f"{count_at}{number(running)}\n{sum_at}{number(series.numbers[-1])}\n")
    if openmetrics:
        parts.append(f"{created_at}{series.born_s:.6f}\n")
    return "".join(parts)


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    trace = f'trace_id="{exemplar.trace_id}",span_id="{exemplar.span_id}"'
    return f" # {{{trace}}} {number(exemplar.value)} {exemplar.at_s:.3f}"
