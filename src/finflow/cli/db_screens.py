"""How `finflow db` looks: plans, states, answers of verify files, and the progress of a backfill."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from finflow.db.backfill import News
    from finflow.db.change import StepStatus
    from finflow.db.plan import Locked, PlannedStep
    from finflow.db.verifying import Finding


def plan(steps: "Sequence[PlannedStep]") -> str:
    """Phase by phase: each statement with its locks."""
    lines: list[str] = []
    phase = None
    for step in steps:
        if step.phase != phase:
            phase = step.phase
            lines.append(f"{phase}:")
        note = "" if step.in_transaction else ", outside of a transaction"
        lines.append(f"  {step.name} ({step.state}{note})")
        for each in step.statements:
            lines.append(f"    {each.line}: {each.sql}")
            lines += [f"       {_lock(one)}" for one in each.locks]
    return "\n".join(lines) or "Nothing is left to do."


def _lock(one: "Locked") -> str:
    size = "not there yet" if one.rows is None else f"about {one.rows:,} rows, {_bytes(one.bytes or 0)}"
    blocks = f", blocks {one.blocks}" if one.blocks else ""
    return f"{one.lock} on {one.table} ({size}){blocks}"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} TiB"


def status(statuses: "Sequence[StepStatus]") -> str:
    """A line for each step."""
    width = max((len(each.name) for each in statuses), default=0)
    return "\n".join(f"{each.name:<{width}}  {each.state:<7}  {_since(each)}".rstrip() for each in statuses)


def _since(each: "StepStatus") -> str:
    words = each.applied_at.isoformat(timespec="seconds") if each.applied_at else ""
    if rows := each.progress.get("rows"):
        words += (
            f"  {rows:,} rows in {each.progress['batches']:,} batches, {each.progress['changed']:,} changed"
        )
    return words + (f"  held by {each.holder}" if each.holder else "")


def verified(findings: "Sequence[Finding]") -> str:
    """A line for each query, and the rows that speak against it."""
    lines = []
    for each in findings:
        lines.append(f"{'held' if each.held else 'BROKEN'}  {each.name}.sql:{each.line}  {each.query[:80]}")
        lines += [f"        {', '.join(map(str, row))}" for row in each.rows]
    return "\n".join(lines) or "No change is left to verify."


class BackfillProgress:
    """A bar on standard error: rows done of those that the catalogue guesses, and what is going on."""

    def __init__(self) -> None:
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[doing]}"),
        )
        self._progress = Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "BackfillProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def told(self, news: "News") -> None:
        """What the backfill calls after every batch."""
        if news.name not in self._tasks:
            self._tasks[news.name] = self._progress.add_task(news.name, total=None, doing="")
        self._progress.update(
            self._tasks[news.name],
            completed=news.progress.rows,
            total=news.estimated_rows,
            doing="" if news.doing == "worked" else news.doing,
        )
