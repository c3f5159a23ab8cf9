"""The folder of one fleet: its plan, what was ordered, and what is; every file replaced as a whole.

FOLDER/plan.json     what a process of this fleet is; no secrets, only the names of their variables
FOLDER/order.json    the last order: how many processes, or that they end
FOLDER/state.json    what the supervisor has made of it
FOLDER/lock          held by the supervisor as long as it runs
FOLDER/logs/         process-N.log of each process, supervisor.log

An order is a file and not a message: it is still there when a supervisor that was killed comes back.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from finflow.stack.folder import folder_error
from finflow.stack.processes import Process

T = TypeVar("T")
Mode = Literal["run", "drain", "stop"]

MAX_EVENTS: Final = 50


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of the fleet is. `release` is a label, `release_folder` the environment that it uses."""

    command: tuple[str, ...]
    working_folder: str
    release: str = ""
    release_folder: str = ""
    port_variable: str = "PORT"
    ready_path: str | None = None
    ready_status: int = 200
    environment: dict[str, str] = {}
    environment_from: tuple[str, ...] = ()
    environment_file: str | None = None
    drain_s: float = 30.0
    stop_timeout_s: float = 10.0
    hung_after_s: float = 60.0
    memory_limit_mb: int | None = None

    @property
    def digest(self) -> str:
        """Equal for equal plans."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Order(msgspec.Struct, frozen=True):
    """What somebody wants of the fleet. `number` grows with every order."""

    number: int
    mode: Mode
    processes: int
    within_s: float


class Cut(msgspec.Struct, frozen=True):
    """A process that had to be killed while it drained, and how many connections it had then."""

    number: int
    connections: int


class Event(msgspec.Struct, frozen=True):
    """Something that became of a process: `what` is one of started, ready, unready, ended, adopted."""

    at: str
    number: int
    what: str
    words: str


class Member(msgspec.Struct, frozen=True):
    """One process as the supervisor sees it. `starts` counts how often it was started, the first time too."""

    number: int
    process: Process | None
    port: int
    ready: bool
    starts: int
    deaths_in_a_row: int
    resident_bytes: int = 0
    last_end: str = ""
    ending: str = ""


class FleetState(msgspec.Struct, frozen=True, kw_only=True):
    """What is. `settled`: the order has been carried out; processes may still become ready, or die."""

    supervisor: Process
    plan: str
    order: int
    mode: Mode
    settled: bool
    members: list[Member] = []
    cut: list[Cut] = []
    ends: dict[str, int] = {}
    events: list[Event] = []


class FleetFolder:
    """The paths of a fleet's folder, and how its files are read and written."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - resolve() would follow links
        self.logs = self.root / "logs"
        self.lock_file = self.root / "lock"

    def create(self) -> None:
        """Makes the folder, private to its owner. Raises data_unusable or database_full."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise folder_error(error, self.root) from error

    def lock(self) -> int | None:
        """Takes the fleet for this process; None if another supervisor has it."""
        handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def plan(self) -> Plan | None:
        """The plan, or None where there is none yet."""
        return _read(self.root / "plan.json", Plan)

    def write_plan(self, plan: Plan) -> None:
        """Replaces the plan, and has it on the disk."""
        replace_file(self.root / "plan.json", msgspec.json.format(msgspec.json.encode(plan)))

    def order(self) -> Order | None:
        """The last order, or None where there is none yet."""
        return _read(self.root / "order.json", Order)

    def give(self, mode: Mode, processes: int, within_s: float) -> Order:
        """Writes the next order. Whoever gives one at the same time waits for a moment."""
        with self._giving():
            last = self.order()
            order = Order((last.number if last else 0) + 1, mode, processes, within_s)
            replace_file(self.root / "order.json", msgspec.json.encode(order))
        return order

    def state(self) -> FleetState | None:
        """What the last supervisor wrote, dead or alive."""
        return _read(self.root / "state.json", FleetState)

    def write_state(self, state: FleetState) -> None:
        """Replaces the state. Not synced: after a power cut no process of it would be left anyway."""
        replace_file(self.root / "state.json", msgspec.json.encode(state), sync=False)

    @contextmanager
    def _giving(self) -> Iterator[None]:
        handle = os.open(self.root / "order.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Puts a file of ours in place whole, readable by us alone. Raises data_unusable or database_full."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(handle)
        fresh.replace(path)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise folder_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
