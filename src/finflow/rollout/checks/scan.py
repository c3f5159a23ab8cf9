"""The security scan as a check: a Trivy report that is there, fresh, about this artifact, and clean."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from finflow.rollout.checks.guarded import Guarded, judged, some
from finflow.rollout.checks.reports import Ruling, rule
from finflow.rollout.checks_spec import ScanSpec
from finflow.rollout.verdicts import Judgement, Verdict

MAX_REPORT_BYTES: Final = 64 << 20
_READ_WITHIN_S: Final = 30.0


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class ScanCheck(Guarded):
    """Fails without a report that counts, and on every finding that nobody has accepted."""

    def __init__(self, spec: ScanSpec, folder: Path, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(spec.name, self._scan, _READ_WITHIN_S)
        self._spec = spec
        self._path = folder / spec.report
        self._now = now

    async def _scan(self) -> Judgement:
        try:
            content, written_at = await asyncio.to_thread(_read, self._path)
        except OSError as error:
            return self._failed(f"{error.strerror or 'it cannot be read'}")
        return self._judgement(rule(content, written_at, self._now(), self._spec))

    def _failed(self, reason: str) -> Judgement:
        return judged(
            self._spec.name, Verdict.FAIL, f"The report {self._path.name} does not count: {reason}."
        )

    def _judgement(self, ruling: Ruling) -> Judgement:
        if ruling.unusable is not None:
            return self._failed(ruling.unusable)
        numbers = {
            "refused": len(ruling.refused),
            "ignored": ruling.ignored,
            "ignored_too_long": ruling.lapsed,
            "age_s": ruling.age_s,
        }
        if ruling.refused:
            words = f"{len(ruling.refused)} findings: {some([str(each) for each in ruling.refused])}."
            if ruling.lapsed:
                words += f" Of {ruling.lapsed} the acceptance has expired."
            return judged(self._spec.name, Verdict.FAIL, words, numbers)
        severities = " or ".join(self._spec.refuse)
        words = f"No {severities} findings in {self._spec.artifact}; {ruling.ignored} accepted."
        return judged(self._spec.name, Verdict.PASS, words, numbers)


def _read(path: Path) -> tuple[bytes, datetime]:
    """A report's bytes and when they were written. OSError, also for one that is too large."""
    with path.open("rb") as file:
        content = file.read(MAX_REPORT_BYTES + 1)
        if len(content) > MAX_REPORT_BYTES:
            raise OSError(27, f"it is larger than {MAX_REPORT_BYTES >> 20} MiB")
        return content, datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
