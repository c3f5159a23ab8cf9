"""Looks that were written down: JSON lines or CSV, of a rollout of ours or of somebody else's canary case.

Four shapes, told apart by their names. JSON lines: one look a line as the judge takes it (`readings`), or
series (`baseline`, `candidate`: lists of durations). CSV: one row a side and moment (`side` and totals, or
`new_requests` and `new_errors` for what came since the row before), or two columns of durations (`baseline`,
`candidate`). Durations may be in any unit, as long as it is one.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.judge import Look
from finflow.rollout.tallies import NOTHING, added
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Histogram, Reading, Side

MAX_BYTES: Final = 256 * 2**20
# Edges of the buckets that series are counted in: 2 % apart, at most so many.
_STEP: Final = 1.02
_MAX_EDGES: Final = 1_000
_EVEN_BP: Final = FULL_WEIGHT_BP // 2


class Recording(msgspec.Struct, frozen=True):
    """Looks in order; whether the file said what weight was in force, and whether it has durations alone."""

    looks: tuple[Look, ...]
    has_weights: bool = False
    is_series: bool = False


class RecordedSource:
    """Gives one recorded look after the other. A Source; at the end it is unreachable."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._looks: Iterator[Look] | None = None

    async def read(self) -> Mapping[Side, Reading]:
        """Raises source_unreachable after the last look or without a file, and source_malformed."""
        if self._looks is None:
            try:
                self._looks = iter(read_recording(self._file).looks)
            except FinFlowError as error:
                code = "source_unreachable" if error.kind.code == "file_unreadable" else "source_malformed"
                raise FinFlowError(code, error.detail) from error
        look = next(self._looks, None)
        if look is None:
            raise FinFlowError("source_unreachable", f"The recording {self._file} has ended.")
        return look.readings


def read_recording(file: str) -> Recording:
    """All looks of a file. Raises file_unreadable and recording_malformed."""
    text = _text(Path(file))
    if file.endswith(".csv"):
        return _of_csv(text)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise FinFlowError("recording_malformed", "The file is empty.")
    if _is_series(text):
        return _of_series(_series(msgspec.json.decode(text)))
    if all(_is_series(line) for line in lines):
        return _of_series([pair for line in lines for pair in _series(msgspec.json.decode(line))])
    return _of_looks(lines)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FinFlowError("recording_malformed", f"The file is larger than {MAX_BYTES:,} bytes.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error}") from error


# --- looks


def _of_looks(lines: Sequence[str]) -> Recording:
    looks, weights = [], False
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(lines, 1):
        try:
            found = decoder.decode(line)
            weights = weights or "weight_bp" in found
            looks.append(msgspec.convert({"at_s": float(number), "weight_bp": _EVEN_BP} | found, Look))
        except msgspec.MsgspecError as error:
            raise FinFlowError("recording_malformed", f"Line {number}: {error}.") from error
    return Recording(tuple(looks), weights)


# --- series of durations


def _is_series(line: str) -> bool:
    try:
        found = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        return False
    return isinstance(found, dict) and isinstance(found.get("baseline"), list)


class _Lists(msgspec.Struct, frozen=True):
    baseline: list[float]
    candidate: list[float]


def _series(found: object) -> list[tuple[float | None, float | None]]:
    try:
        lists = msgspec.convert(found, _Lists)
    except msgspec.ValidationError as error:
        raise FinFlowError("recording_malformed", f"Series: {error}.") from error
    return list(zip_longest(lists.baseline, lists.candidate))


def inverted(recording: Recording) -> Recording:
    """The same series with less being worse: what was the lowest bucket is the highest now."""
    looks = tuple(
        msgspec.structs.replace(
            look, readings={side: _inverted(each) for side, each in look.readings.items()}
        )
        for look in recording.looks
    )
    return msgspec.structs.replace(recording, looks=looks)


def _inverted(reading: Reading) -> Reading:
    durations = reading.latency
    if durations is None:
        return reading
    edges = tuple(1.0 / edge for edge in reversed(durations.edges_s))
    return msgspec.structs.replace(reading, latency=Histogram(edges, durations.counts[::-1], 0.0))


def _of_series(pairs: Sequence[tuple[float | None, float | None]]) -> Recording:
    """A look for each pair. The buckets are made of all values of both sides, so they favour neither."""
    values = [value for pair in pairs for value in pair if value is not None]
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise FinFlowError("recording_malformed", "Series hold finite numbers from 0, and at least one.")
    edges = _edges(values)
    totals = {side: Reading(0, 0, _one(edges, None)) for side in Side}
    looks = [Look(0.0, _EVEN_BP, dict(totals))]
    for number, pair in enumerate(pairs, 1):
        for side, value in zip((Side.BASELINE, Side.CANDIDATE), pair, strict=True):
            if value is not None:
                totals[side] = added(totals[side], Reading(1, 0, _one(edges, value)))
        looks.append(Look(float(number), _EVEN_BP, dict(totals)))
    return Recording(tuple(looks), is_series=True)


def _edges(values: Sequence[float]) -> tuple[float, ...]:
    """Edges from the least to the largest value; the first is below every value but 0."""
    most = max(values) or 1.0
    least = max(min((value for value in values if value > 0), default=most), most * 1e-9)
    steps = max(1, math.ceil(math.log(most / least) / math.log(_STEP)))
    step = _STEP if steps <= _MAX_EDGES else (most / least) ** (1 / _MAX_EDGES)
    return (least / 2, *(least * step**number for number in range(min(steps, _MAX_EDGES) + 1)))


def _one(edges: tuple[float, ...], value: float | None) -> Histogram:
    counts = [0] * (len(edges) + 1)
    if value is None:
        return Histogram(edges, tuple(counts), 0.0, 0.0)
    counts[sum(edge < value for edge in edges)] = 1
    return Histogram(edges, tuple(counts), value, value * value)


# --- CSV


def _of_csv(text: str) -> Recording:
    rows = csv.DictReader(text.splitlines())
    names = set(rows.fieldnames or ())
    try:
        if {"baseline", "candidate"} <= names:
            return _of_series([(_number(row, "baseline"), _number(row, "candidate")) for row in rows])
        if "side" not in names or not {"requests", "new_requests"} & names:
            raise FinFlowError(
                "recording_malformed", "The CSV needs columns baseline and candidate, or side and requests."
            )
        return _of_rows(rows, names)
    except (ValueError, csv.Error) as error:
        raise FinFlowError("recording_malformed", f"Line {rows.line_num}: {error}.") from error


def _number(row: Mapping[str, str | None], name: str) -> float | None:
    text = (row.get(name) or "").strip()
    return float(text) if text else None


def _of_rows(rows: "csv.DictReader[str]", names: set[str]) -> Recording:
    """A look for each moment at which there are rows, in the order of the file."""
    anew = "new_requests" in names
    totals = dict.fromkeys(Side, NOTHING) if anew else {}
    looks: list[Look] = [Look(0.0, _EVEN_BP, dict(totals))] if anew else []
    begun = len(looks)
    for number, row in enumerate(rows):
        at_s = _number(row, "at_s")
        moment = float(number // 2 + 1) if at_s is None else at_s
        side, reading, weight_bp = _row(row, anew)
        totals[side] = added(totals.get(side), reading) if anew else reading
        look = Look(moment, weight_bp, dict(totals))
        if len(looks) > begun and looks[-1].at_s == moment:
            looks[-1] = look
        else:
            looks.append(look)
    if anew and len(looks) > 1:
        looks[0] = msgspec.structs.replace(looks[0], weight_bp=looks[1].weight_bp)
    return Recording(tuple(looks), "weight_bp" in names)


def _row(row: Mapping[str, str | None], anew: bool) -> tuple[Side, Reading, int]:
    prefix = "new_" if anew else ""
    requests = _number(row, f"{prefix}requests") or 0
    errors = _number(row, f"{prefix}errors") or 0
    failed = _number(row, f"{prefix}customers_failed")
    weight = _number(row, "weight_bp")
    reading = Reading(
        round(requests), round(errors), _row_durations(row, prefix), None if failed is None else round(failed)
    )
    side = Side((row.get("side") or "").strip())
    return side, reading, _EVEN_BP if weight is None else round(weight)


def _row_durations(row: Mapping[str, str | None], prefix: str) -> Histogram | None:
    """Columns `le_0.1`, `le_0.5`, `le_inf` hold how many lie at or below each edge, as Prometheus has it."""
    found = sorted(
        (float(name.removeprefix(f"{prefix}le_")), _number(row, name) or 0.0)
        for name in row
        if name and name.startswith(f"{prefix}le_")
    )
    edges = tuple(edge for edge, _ in found if edge != math.inf)
    if not edges:
        return None
    steps = [0.0, *(held for _, held in found)]
    if len(found) == len(edges):
        steps.append(steps[-1])
    counts = tuple(round(high) - round(low) for low, high in pairwise(steps))
    return Histogram(edges, counts, _number(row, f"{prefix}sum_s") or 0.0)
