"""The folder of a router on this machine: what it is told, what it logs, and which process it is.

FOLDER/router.json     the process, its port and its specification
FOLDER/weight          the candidate's share in basis points
FOLDER/backends.json   the processes of either side
FOLDER/salts           what customers' keys are hashed with in the log
FOLDER/tester-secret   what testers prove themselves by who choose their side, unless a variable holds it
FOLDER/proof           where there is one, sent along, so that processes behind it know that it was the router
FOLDER/traffic.log     one line for each request; older ones beside it
FOLDER/lock            held while the router is started, stopped or changed
"""

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.folder import folder_error
from finflow.stack.processes import Process

# Where the folder has a file `proof`, its content is sent along under this name, so that processes behind the
# router know that it was the router; behind a colon stands whether the client claimed an origin itself.
PROOF_HEADER: Final = "X-Finflow-Ingress"
CLAIMED_HEADERS: Final = ("X-Forwarded-For", "Forwarded", "X-Real-Ip")
_LOCK_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.02

Backends = Mapping[Side, Sequence[Endpoint]]


class RouterState(msgspec.Struct, frozen=True):
    """What router.json says. `spec` is the specification as plain values.

    `descriptors` are the numbers under which the process inherited its listening socket; `reloads` counts.
    """

    port: int
    spec: dict[str, object]
    process: Process | None = None
    descriptors: tuple[int, ...] = ()
    reloads: int = 0


class RouterFolder:
    """The files of one router, replaced as wholes and written to the disk before anybody relies on them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - resolve() would follow links

    def create(self) -> None:
        """Makes the folder, private to its owner, salts and secret. Raises data_unusable or database_full."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.root / "salts").exists():
                self.write("salts", "\n".join(secrets.token_hex(16) for _ in range(2)))
            if not self.tester_secret():
                self.write("tester-secret", secrets.token_hex(32))
            if not (self.root / "weight").exists():
                self.write("weight", "0")
        except OSError as error:
            raise folder_error(error, self.root) from error

    def write(self, name: str, text: str) -> None:
        """Replaces a file; when this returns, the new text survives a power cut."""
        path = self.root / name
        fresh = path.with_name(f".{path.name}.new")
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise folder_error(error, self.root) from error

    def read(self, name: str) -> str | None:
        """The text of a file, or None where there is none."""
        try:
            return (self.root / name).read_text()
        except OSError:
            return None

    def make_proof(self) -> None:
        """Has the router prove itself to the processes behind it from its next start on."""
        self.create()
        if not (self.root / "proof").exists():
            self.write("proof", secrets.token_hex(32))

    def proof(self) -> str:
        """What the router proves itself by; empty where it does not."""
        return (self.read("proof") or "").strip()

    def tester_secret(self) -> str:
        """What a tester's header must hold beside the side that it asks for; no file, no tester."""
        return (self.read("tester-secret") or "").strip()

    def salts(self) -> list[str]:
        return (self.read("salts") or "").split()

    def weight(self) -> int:
        """The weight on the disk."""
        text = (self.read("weight") or "").strip()
        return int(text) if text.isdigit() else 0

    def backends(self) -> dict[Side, tuple[Endpoint, ...]]:
        """The backends on the disk."""
        empty: dict[Side, tuple[Endpoint, ...]] = dict.fromkeys(Side, ())
        text = self.read("backends.json")
        return empty | (msgspec.json.decode(text, type=dict[Side, tuple[Endpoint, ...]]) if text else {})

    def write_backends(self, backends: Backends) -> None:
        self.write("backends.json", msgspec.json.encode(backends).decode())

    def state(self) -> RouterState | None:
        """Which router there was last."""
        text = self.read("router.json")
        try:
            return msgspec.json.decode(text, type=RouterState) if text else None
        except msgspec.DecodeError:
            return None

    def write_state(self, state: RouterState) -> None:
        self.write("router.json", msgspec.json.format(msgspec.json.encode(state)).decode())

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keeps other processes from changing the same router meanwhile. Raises ingress_busy."""
        self.create()
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _flock(handle, self.root)
            yield
        finally:
            os.close(handle)


async def _flock(handle: int, root: Path) -> None:
    deadline = monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > deadline:
                raise FinFlowError("ingress_busy", f"{root}: another process changes it.") from None
            await asyncio.sleep(_POLL_S)


def sync_folder(folder: Path) -> None:
    """Writes a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
