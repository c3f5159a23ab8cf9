"""What was told and what was delivered, on the disk: a notice outlives the process that had to send it.

Lines of JSON, appended and fsynced. What was cut off by a kill at the end is passed over. Opening writes the
file anew with what is still owed and the keys of the newest notices, so it stays small.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from finflow.rollout.ports import Notice

KEPT_KEYS: Final = 1_000
MAX_BYTES: Final = 64 << 20


class Told(msgspec.Struct, frozen=True, tag="told"):
    """A notice is owed to these channels."""

    key: str
    channels: tuple[str, ...]
    notice: Notice


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """A channel has it, or has been given up on."""

    key: str
    channel: str
    outcome: str


class Known(msgspec.Struct, frozen=True, tag="known"):
    """Keys that were told before this file was written."""

    keys: tuple[str, ...]


_decode: Final = msgspec.json.Decoder(Told | Settled | Known).decode


class Journal:
    """The file, by one process at a time: the controller's lock sees to that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, None] = {}
        self.owed: dict[str, Told] = {}
        self._descriptor = -1

    def open(self) -> None:
        """Read what is there and begin a clean file. OSError."""
        for line in self._lines():
            self._take(line)
        self._rewrite()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags)

    def append(self, line: Told | Settled) -> None:
        """Write a line; it is on the disk when this returns. OSError."""
        content = msgspec.json.encode(line) + b"\n"
        if self._descriptor >= 0:
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fsync(self._descriptor)
        self._take(line)

    def close(self) -> None:
        """No more lines."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lines(self) -> list[Told | Settled | Known]:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES)
        except FileNotFoundError:
            return []
        found: list[Told | Settled | Known] = []
        for line in content.split(b"\n"):
            try:
                found.append(_decode(line))
            except msgspec.MsgspecError:
                continue
        return found

    def _take(self, line: Told | Settled | Known) -> None:
        if isinstance(line, Known):
            self.known.update(dict.fromkeys(line.keys))
        elif isinstance(line, Told):
            self.known[line.key] = None
            self.owed[line.key] = line
        elif told := self.owed.get(line.key):
            left = tuple(name for name in told.channels if name != line.channel)
            if left:
                self.owed[line.key] = msgspec.structs.replace(told, channels=left)
            else:
                del self.owed[line.key]
        while len(self.known) > KEPT_KEYS + len(self.owed):
            self.known.pop(next(iter(self.known)))

    def _rewrite(self) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        lines: list[Told | Known] = [Known(tuple(self.known)), *self.owed.values()]
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(msgspec.json.encode(line) + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
