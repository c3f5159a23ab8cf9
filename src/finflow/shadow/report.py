"""What a shadow says about itself: one file, replaced once a second, and its cases beside it, one a line."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.shadow.cases import Case
from finflow.shadow.model import WRONG, Outcome, bound

REPORT: Final = "report.json"
CASES: Final = "cases.jsonl"
# A shadow that has not said anything for so long does not run.
STALE_AFTER_S: Final = 15.0


class LedgerLag(msgspec.Struct, frozen=True):
    """How far one ledger has been compared."""

    ledger_no: int
    live_seq: int
    shadow_seq: int
    base_seq: int
    commands: int
    lag_s: float


class Report(msgspec.Struct, frozen=True):
    """The state of a shadow at `at_s`, in Unix seconds. `state` is running, stopped, or failed.

    `by_release` are commands compared in time, by the release that booked them; None where the journal does
    not say which one did.
    """

    at_s: float
    pid: int
    state: str
    baseline: str
    started_at_s: float
    outcomes: Mapping[str, int]
    ledgers: Sequence[LedgerLag]
    commands_per_s: float
    cases: int
    verified: str | None = None
    last_error: str | None = None
    by_release: Mapping[str, int] | None = None

    @property
    def compared(self) -> int:
        """Commands, quotes and cycles that were compared in time."""
        return sum(n for outcome, n in self.outcomes.items() if outcome != Outcome.LATE)

    @property
    def wrong(self) -> int:
        """Comparisons that say that the release is not what it replaces."""
        return sum(self.outcomes.get(outcome, 0) for outcome in WRONG)

    @property
    def lag_commands(self) -> int:
        return sum(each.commands for each in self.ledgers)

    @property
    def lag_s(self) -> float:
        return max((each.lag_s for each in self.ledgers), default=0.0)

    @property
    def bound(self) -> float | None:
        """With 95 % confidence fewer are wrong than this share; None once one is wrong."""
        return None if self.wrong else bound(self.compared)


def write_report(folder: Path, report: Report) -> None:
    """Replace the report as a whole. It is made anew each second, so it need not outlive a power cut."""
    fresh = folder / f"{REPORT}.new"
    fresh.write_bytes(msgspec.json.encode(report) + b"\n")
    fresh.chmod(0o600)
    fresh.replace(folder / REPORT)


def read_report(folder: Path) -> Report | None:
    """The last report, or None where there is none. Raises shadow_report_malformed."""
    try:
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=Report)
    except OSError:
        return None
    except msgspec.DecodeError as error:
        raise FinFlowError("shadow_report_malformed", f"{folder / REPORT}: {error}") from error


def write_cases(folder: Path, cases: Sequence[Case], anew: bool = False) -> None:
    """Add cases to the file; `anew` makes the file again, from all of them."""
    lines = b"".join(msgspec.json.encode(case) + b"\n" for case in cases)
    path = folder / CASES
    if anew:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(lines)
        fresh.chmod(0o600)
        fresh.replace(path)
        return
    with path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def read_cases(folder: Path) -> list[Case]:
    """Every case that the file has whole; the last line may be one that is being written."""
    try:
        lines = (folder / CASES).read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    try:
        return [msgspec.json.decode(line, type=Case) for line in lines if line.endswith(b"\n")]
    except msgspec.DecodeError as error:
        raise FinFlowError("shadow_report_malformed", f"{folder / CASES}: {error}") from error
