"""A progress line on standard error; nothing at all where that is not a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import BinaryIO, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_STEP_BYTES: Final = 64 * 1024


class ByteProgress:
    """Follows the reading of a file by its bytes; a pipe has no end to show."""

    def __init__(self, title: str, source: BinaryIO) -> None:
        size = os.fstat(source.fileno()).st_size or None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        )
        self._task = self._progress.add_task(title, total=size)

    def __enter__(self) -> "ByteProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def counted(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The same lines; the bar moves as they are read, not at every one since drawing costs more."""
        unseen = 0
        for line in lines:
            unseen += len(line)
            if unseen >= _STEP_BYTES:
                self._progress.advance(self._task, unseen)
                unseen = 0
            yield line
        self._progress.advance(self._task, unseen)
