"""The screen of `finflow top`: what was measured as tables. Pure."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from finflow.cli.top_model import Requests, Top


def screen(found: Top, url: str) -> RenderableType:
    """Everything from the whole to its parts, one table below the other."""
    parts: list[RenderableType] = [_headline(found, url), _requests("ROUTE", [found.all, *found.routes])]
    if len(found.releases) > 1:
        parts.append(_requests("RELEASE", found.releases))
    if found.tenants:
        parts.append(_tenants(found.tenants))
    parts.append(_facts("GROUP COMMIT", _group_commit(found)))
    parts.append(_facts("PROCESSES", _processes(found)))
    if found.refusals_per_s:
        ranked = sorted(found.refusals_per_s.items(), key=lambda pair: (-pair[1], pair[0]))
        parts.append(_facts("PROBLEMS", [(code, f"{rate:,.1f}/s") for code, rate in ranked[:8]]))
    return Group(*parts)


def _headline(found: Top, url: str) -> Text:
    releases = ", ".join(row.name for row in found.releases) or "-"
    where = f"  {url}" if url else ""
    return Text(
        f"finflow top  release {releases}  {found.processes.workers:.0f} workers  "
        f"over {found.over_s:.1f} s{where}",
        style="bold",
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(title, overflow="ellipsis", no_wrap=True, min_width=14)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _requests(title: str, rows: Iterable[Requests]) -> Table:
    table = _table(title, ("REQ/S", "FAIL/S", "P50 MS", "P95 MS", "P99 MS"))
    for row in rows:
        quantiles = (_ms(each) for each in (row.p50_ms, row.p95_ms, row.p99_ms))
        table.add_row(row.name, f"{row.per_s:,.1f}", _bad(row.failed_per_s), *quantiles)
    return table


def _tenants(rows: Iterable[Requests]) -> Table:
    table = _table("TENANT", ("REQ/S", "FAIL/S", "SLOW/S"))
    for row in rows:
        table.add_row(row.name, f"{row.per_s:,.1f}", _bad(row.failed_per_s), _bad(row.slow_per_s or 0.0))
    return table


def _facts(title: str, facts: Sequence[tuple[str, str]]) -> Table:
    """Names and values side by side, four to a line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(title, no_wrap=True)
    for _ in range(3):
        table.add_column(no_wrap=True)
    cells = [f"{name} {value}" for name, value in facts]
    for start in range(0, len(cells), 4):
        table.add_row(*cells[start : start + 4])
    return table


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
    return [
        ("cpu", f"{processes.cpu_cores:.2f} cores"),
        ("memory", f"{processes.resident_mb:,.0f} MiB"),
        ("open files", f"{processes.open_fds:,.0f}"),
        ("loop lag p99", f"{_ms(processes.loop_lag_p99_ms)} ms"),
        ("connections", f"{processes.connections_used:.0f}/{processes.connections_max:.0f}"),
        ("waiting for one", f"{processes.connection_waits_pending:.0f}"),
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _bad(rate: float) -> Text:
    return Text(f"{rate:,.1f}", style="red bold" if rate else "")
