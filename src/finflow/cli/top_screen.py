"""The screen of `finflow top`: lines that fit a terminal, from the whole to its parts. Pure.

Where there is little room, names are cut; rows, rules and columns of less value go. No number is cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple

from finflow.cli.top_model import Requests, Top

# A line is pieces of text, each with a style that a terminal may show and plain text leaves out.
Piece = tuple[str, str]
Line = list[Piece]

UNBOUNDED: Final = 1_000_000
_GAP: Final = "   "
_ROWS: Final = 12
_ACROSS: Final = (4, 3, 2, 1)
_LEAST_NAME: Final = 20
_USUAL_NAME: Final = 14
_REQUESTS: Final = ("REQ/S", "FAIL/S", "P50 MS", "P95 MS", "P99 MS")
_TENANTS: Final = ("REQ/S", "FAIL/S", "SLOW/S")
_LEAST_VALUE_FIRST: Final = ("P95 MS", "P50 MS", "P99 MS", "SLOW/S", "FAIL/S")


class Table(NamedTuple):
    """Rows of a name and numbers; however low the screen is, the first `kept` of them are shown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Line]
    kept: int = 0


def screen(found: Top, url: str, width: int = UNBOUNDED, height: int = UNBOUNDED) -> list[Line]:
    """Everything, one table below the other."""
    tables = _tables(found)
    facts = [
        _facts("GROUP COMMIT", _group_commit(found), width),
        _facts("PROCESSES", _processes(found), width),
    ]
    wanted = [min(_ROWS, len(table.rows) - table.kept) for table in tables]
    least = 1 + sum(1 + table.kept for table in tables) + sum(map(len, facts))
    # A rule below each title is the first to go.
    ruled = least + sum(wanted) + len(tables) + len(facts) <= height
    shares = wanted if ruled else _shared(height - least, wanted)
    lines = [_headline(found, url, width)]
    for title, *rest in [*map(_laid, tables, shares, repeat(width)), *facts]:
        lines += [title, [("─" * _width(title, *rest), "")], *rest] if ruled else [title, *rest]
    return _cut(lines, height)


def plain(lines: Iterable[Line]) -> str:
    """The lines as text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def _width(*lines: Line) -> int:
    return max(sum(len(text) for text, _ in line) for line in lines)


def _cut(lines: list[Line], height: int) -> list[Line]:
    if len(lines) <= height:
        return lines
    shown = lines[: height - 1]
    return [*shown, [(f"... {len(lines) - len(shown)} more lines", "dim")]]


def _shared(room: int, wanted: Sequence[int]) -> list[int]:
    """The rows that each table gets: all it wants where that is little, the rest in equal parts."""
    given = [0] * len(wanted)
    for others, place in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[place] = min(wanted[place], max(0, room) // (len(wanted) - others))
        room -= given[place]
    return given


def _headline(found: Top, url: str, width: int) -> Line:
    """What fits of it, whole."""
    processes = found.processes
    shown = "finflow top"
    for part in (
        f"release {', '.join(processes.releases) or '-'}",
        f"{processes.workers:.0f} workers",
        f"over {found.over_s:.1f} s",
        url,
    ):
        if part and len(shown) + 2 + len(part) <= width:
            shown += f"  {part}"
    return [(shown, "bold")]


# --- tables -----------------------------------------------------------------------------------------------


def _tables(found: Top) -> list[Table]:
    tables = [Table("ROUTE", _REQUESTS, [*map(_request, [found.all, *found.routes])], 1)]
    if len(found.releases) > 1:
        tables.append(Table("RELEASE", _REQUESTS, [*map(_request, found.releases)]))
    if found.tenants:
        tables.append(Table("TENANT", _TENANTS, [*map(_tenant, found.tenants)]))
    if found.refusals_per_s:
        ranked = sorted(found.refusals_per_s.items(), key=lambda pair: (-pair[1], pair[0]))
        tables.append(
            Table("PROBLEM", ("PER S",), [[(code, ""), (f"{rate:,.1f}", "")] for code, rate in ranked])
        )
    return tables


def _request(row: Requests) -> Line:
    quantiles = [(_ms(each), "") for each in (row.p50_ms, row.p95_ms, row.p99_ms)]
    return [(row.name, ""), (f"{row.per_s:,.1f}", ""), _bad(row.failed_per_s), *quantiles]


def _tenant(row: Requests) -> Line:
    return [(row.name, ""), (f"{row.per_s:,.1f}", ""), _bad(row.failed_per_s), _bad(row.slow_per_s or 0.0)]


def _laid(table: Table, shown: int, width: int) -> list[Line]:
    """The title with the columns' names, and the rows; says how many are not shown."""
    rows = table.rows[: table.kept + shown]
    title = _titled(table.title, shown, len(table.rows) - table.kept)
    grid = [[(title, "bold"), *((name, "bold") for name in table.columns)], *rows]
    longest, *numbers = (max(len(line[at][0]) for line in grid) for at in range(len(grid[0])))
    widths = dict(zip(table.columns, numbers, strict=True))
    least = max(len(title), min(longest, _LEAST_NAME))
    for column in _LEAST_VALUE_FIRST:
        if least + _needed(widths) > width:
            widths.pop(column, None)
    names = max(least, min(max(longest, _USUAL_NAME), width - _needed(widths)))
    return [[_named(name, names), *_aligned(table.columns, cells, widths)] for name, *cells in grid]


def _needed(widths: dict[str, int]) -> int:
    return sum(len(_GAP) + each for each in widths.values())


def _titled(title: str, shown: int, there_are: int) -> str:
    return title if shown == there_are else f"{title} ({shown} of {there_are:,})"


def _named(piece: Piece, width: int) -> Piece:
    text, style = piece
    return (text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"), style


def _aligned(columns: Sequence[str], cells: Line, widths: dict[str, int]) -> Iterator[Piece]:
    for column, (text, style) in zip(columns, cells, strict=True):
        if column in widths:
            yield _GAP + text.rjust(widths[column]), style


# --- names and values side by side ------------------------------------------------------------------------


def _facts(title: str, facts: Sequence[tuple[str, str]], width: int) -> list[Line]:
    """The title, and as many facts in a line as fit."""
    cells = [f"{name} {value}" for name, value in facts]
    for across in _ACROSS:
        widths = [max(map(len, cells[at::across]), default=0) for at in range(across)]
        if sum(widths) + len(_GAP) * (across - 1) <= width:
            break
    rows = [
        _GAP.join(cell.ljust(widths[at]) for at, cell in enumerate(cells[start : start + across]))
        for start in range(0, len(cells), across)
    ]
    return [[(title, "bold")], *([(row.rstrip(), "")] for row in rows)]


def _group_commit(found: Top) -> list[tuple[str, str]]:
    commit = found.group_commit
    per_batch = "-" if commit.commands_per_batch is None else f"{commit.commands_per_batch:,.1f}"
    return [
        ("commands/s", f"{commit.commands_per_s:,.1f}"),
        ("batches/s", f"{commit.batches_per_s:,.1f}"),
        ("per batch", per_batch),
        ("queued", f"{commit.queued:,.0f}"),
        ("wait p99", f"{_ms(commit.queue_wait_p99_ms)} ms"),
        ("commit p99", f"{_ms(commit.commit_p99_ms)} ms"),
        ("retries/s", f"{commit.retries_per_s:,.1f}"),
        ("refused/s", f"{commit.refused_per_s:,.1f}"),
        ("failed writes", f"{commit.failures:,.0f}"),
        ("unknown outcomes", f"{commit.unknown_outcomes:,.0f}"),
    ]


def _processes(found: Top) -> list[tuple[str, str]]:
    processes = found.processes
    cores = "-" if processes.cpu_cores is None else f"{processes.cpu_cores:.2f} cores"
    return [
        ("cpu", cores),
        ("memory", f"{processes.resident_mb:,.0f} MiB"),
        ("open files", f"{processes.open_fds:,.0f}"),
        ("loop lag p99", f"{_ms(processes.loop_lag_p99_ms)} ms"),
        ("connections", f"{processes.connections_used:.0f}/{processes.connections_max:.0f}"),
        ("waiting for one", f"{processes.connection_waits_pending:.0f}"),
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _bad(rate: float) -> Piece:
    return f"{rate:,.1f}", "red bold" if rate else ""
