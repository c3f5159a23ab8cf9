"""Orders to a controller: files that appear whole in a folder, each with who gave it."""

import contextlib
import getpass
import os
import re
import socket
import uuid
from pathlib import Path
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.events import Order

_MOST: Final = 100
_MAX_BYTES: Final = 4096


class Ordered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One order: for which rollout, by whom, and why."""

    order_id: str
    rollout_id: str
    order: Order
    who: str
    reason: str = ""


def somebody() -> str:
    """Who runs this command, as it stands in the log: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return re.sub(r"[^\w.@+-]", "_", f"{user}@{socket.gethostname()}")[:128]


class OrderBox:
    """The folder `orders` of a service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "orders"

    def drop(self, rollout_id: str, order: Order, reason: str = "", who: str = "") -> Ordered:
        """Gives an order; it appears as a whole. Raises data_unusable."""
        given = Ordered(uuid.uuid4().hex, rollout_id, order, who or somebody(), reason[:500])
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._folder / f".{given.order_id}"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(msgspec.json.encode(given))
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._folder / f"{given.order_id}.json")
        except OSError as error:
            raise FinFlowError("data_unusable", f"{self._folder}: {error.strerror}") from error
        return given

    def waiting(self) -> list[Ordered]:
        """What was ordered and not yet taken up, oldest first; what is no order is thrown away."""
        found = []
        for path in self._paths():
            try:
                found.append(msgspec.json.decode(path.read_bytes()[:_MAX_BYTES], type=Ordered))
            except (OSError, msgspec.DecodeError):
                with contextlib.suppress(OSError):
                    path.unlink()
        return found

    def _paths(self) -> list[Path]:
        try:
            paths = list(self._folder.glob("*.json"))
            return sorted(paths, key=lambda path: path.stat().st_mtime_ns)[:_MOST]
        except OSError:
            return []

    def forget(self, order_id: str) -> None:
        """It stands in the log now."""
        (self._folder / f"{order_id}.json").unlink(missing_ok=True)
