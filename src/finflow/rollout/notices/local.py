"""Notices on this host: a line of JSON at the end of a file, or a line on standard error."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final, TextIO

from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import FileSpec, StderrSpec
from finflow.rollout.notices.model import body_of, key_of, sentence
from finflow.rollout.ports import Notice

# A repeated notice is looked for so far back.
_TAIL_BYTES: Final = 1 << 20


class File:
    """Appends to a file of mode 0600, and is done when the line is on the disk."""

    def __init__(self, spec: FileSpec, folder: Path) -> None:
        self.name = spec.name
        self._path = folder / spec.path
        self._within_s = spec.within_s

    async def notify(self, notice: Notice) -> None:
        """Deliver it, unless its key stands at the end of the file already."""
        try:
            async with asyncio.timeout(self._within_s):
                await asyncio.to_thread(self._append, body_of(notice), key_of(notice))
        except TimeoutError:
            raise FinFlowError(
                "notice_undelivered", f"{self.name}: not within {self._within_s:g} s"
            ) from None
        except OSError as error:
            raise FinFlowError("notice_undelivered", f"{self.name}: {error.strerror}") from error

    def _append(self, line: bytes, key: str) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
            # Whoever was killed in the middle of a line left it without an end: that one was not delivered.
            if f'"key":"{key}"'.encode() in tail[: tail.rfind(b"\n") + 1]:
                return
            torn = bool(tail) and not tail.endswith(b"\n")
            file.write(b"\n" * torn + line + b"\n")
            os.fsync(file.fileno())


class Stderr:
    """Writes a line to whoever runs the rollout."""

    def __init__(self, spec: StderrSpec, stream: TextIO | None = None) -> None:
        self.name = spec.name
        self._stream = stream
        self._within_s = spec.within_s

    async def notify(self, notice: Notice) -> None:
        """Deliver it."""
        try:
            async with asyncio.timeout(self._within_s):
                await asyncio.to_thread(self._write, f"{notice.at} {sentence(notice)}\n")
        except TimeoutError:
            raise FinFlowError("notice_undelivered", f"{self.name}: nobody reads it") from None
        except (OSError, ValueError) as error:
            raise FinFlowError("notice_undelivered", f"{self.name}: {type(error).__name__}") from error

    def _write(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(line)
        stream.flush()
