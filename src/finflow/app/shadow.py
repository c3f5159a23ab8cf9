"""A shadow composed: a folder of its own, a clone in it, and the process that replays on the clone.

FOLDER/settings.json  what is shadowed, without secrets
FOLDER/clone/         the clone's data, where the live server is an embedded one
FOLDER/marked         that the clone is whole and says what it is; without it a clone is made anew
FOLDER/report.json, cases.jsonl, shadow.log
FOLDER/lock           held by the process that replays

`python -m finflow.app.shadow FOLDER` is that process. Which interpreter runs it is the caller's choice: that
of the baseline release. URLs come in FINFLOW_SHADOW_LIVE_URL and FINFLOW_SHADOW_CLONE_URL.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from finflow.db.pool import connect
from finflow.kernel.errors import CATALOGUE, FinFlowError
from finflow.shadow import store
from finflow.shadow.cases import read_allowances
from finflow.shadow.report import Report, read_report, write_report
from finflow.shadow.service import ShadowSettings, shadowing
from finflow.stack import clone, processes
from finflow.stack.folder import DataFolder, folder_error
from finflow.stack.postgres import EmbeddedPostgres
from finflow.stack.scheduling import give_way

LIVE_URL: Final = "FINFLOW_SHADOW_LIVE_URL"
CLONE_URL: Final = "FINFLOW_SHADOW_CLONE_URL"
NICENESS: Final = 15
_STOP_TIMEOUT_S: Final = 60.0
_GRACE_S: Final = 10.0
_POLL_S: Final = 0.1


class Settings(msgspec.Struct, frozen=True):
    """What a shadow's process is told: the live database's name, the path of an allow-list."""

    baseline: str
    database: str
    embedded: bool
    allowances: str | None = None


class ShadowFolder:
    """The paths of one shadow, and who runs on it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - resolve() would follow links
        self.clone = DataFolder(self.root / "clone")
        self.log = self.root / "shadow.log"
        self._marked = self.root / "marked"
        self._settings = self.root / "settings.json"

    def create(self) -> None:
        """Make the folder, its owner's alone."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise folder_error(error, self.root) from error

    @property
    def marked(self) -> bool:
        """Whether the clone is whole."""
        return self._marked.exists()

    def mark(self) -> None:
        """Say that it is."""
        with self._marked.open("wb") as file:
            os.fsync(file.fileno())

    def write_settings(self, settings: Settings) -> None:
        """Keep what is shadowed."""
        fresh = self._settings.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(settings))
        fresh.replace(self._settings)

    def settings(self) -> Settings:
        """What is shadowed. Raises shadow_not_running where nothing ever was."""
        try:
            return msgspec.json.decode(self._settings.read_bytes(), type=Settings)
        except (OSError, msgspec.DecodeError) as error:
            raise FinFlowError("shadow_not_running", f"there is no shadow in {self.root}") from error

    def lock(self) -> int | None:
        """The handle that holds the folder, or None where another process has it."""
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        return handle

    def runner(self) -> processes.Process | None:
        """The process that holds the folder, or None."""
        if not (self.root / "lock").exists():
            return None
        handle = self.lock()
        if handle is not None:
            os.close(handle)
            return None
        try:
            return processes.identify(int((self.root / "lock").read_text() or "0"))
        except ValueError:
            return None

    async def drop_clone(self) -> None:
        """Remove the clone, and what a killed process has left running over it."""
        self._marked.unlink(missing_ok=True)
        await clone.remove(self.clone)

    def clone_url(self) -> str:
        """Where the clone answers, while it runs. Raises setting_malformed where it is elsewhere, unnamed."""
        settings = self.settings()
        if settings.embedded:
            return EmbeddedPostgres(self.clone, durable=False).url(settings.database)
        return _named(CLONE_URL)


def _named(variable: str) -> str:
    found = os.environ.get(variable)
    if not found:
        raise FinFlowError("setting_malformed", f"{variable} is not set.", variable)
    return found


def database_of(url: str) -> str:
    """The name of the database that a URL leads to."""
    return urlsplit(url).path.lstrip("/") or "finflow"


# --- whoever starts and stops it -------------------------------------------------------------------------


async def start(
    folder: ShadowFolder,
    live_url: str,
    *,
    baseline: str,
    allowances: Path | None = None,
    anew: bool = False,
    interpreter: str = sys.executable,
    within_s: float = 900.0,
) -> Report:
    """Start the process that replays, and wait for its first word.

    A clone that is there already is gone on with, unless `anew`. Raises shadow_running, and what ended the
    process.
    """
    read_allowances(allowances)
    folder.create()
    if folder.runner() is not None:
        raise FinFlowError("shadow_running", f"process {folder.runner()} replays in {folder.root}")
    if anew:
        await folder.drop_clone()
    embedded = clone.is_embedded(live_url) and not os.environ.get(CLONE_URL)
    folder.write_settings(Settings(baseline, database_of(live_url), embedded, _absolute(allowances)))
    (folder.root / "report.json").unlink(missing_ok=True)
    child = _spawn(folder, live_url, interpreter)
    return await _first_word(folder, child, within_s)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _spawn(folder: ShadowFolder, live_url: str, interpreter: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, LIVE_URL: live_url}
    with folder.log.open("ab") as log:
        folder.log.chmod(0o600)
        return subprocess.Popen(  # noqa: S603 - the interpreter is the caller's choice, and nothing else is run
            [interpreter, "-m", "finflow.app.shadow", str(folder.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


async def _first_word(folder: ShadowFolder, child: "subprocess.Popen[bytes]", within_s: float) -> Report:
    deadline = monotonic() + within_s
    while True:
        report = read_report(folder.root)
        if report is not None and report.pid == child.pid and report.state == "running":
            return report
        if child.poll() is not None:
            raise _died(folder)
        if monotonic() > deadline:
            child.terminate()
            raise FinFlowError("clone_failed", f"it took longer than {within_s:.0f} s")
        await asyncio.sleep(_POLL_S)


def _died(folder: ShadowFolder) -> FinFlowError:
    """What a process wrote last before it ended: `code: detail`, or a bug."""
    lines = folder.log.read_text(errors="replace").strip().splitlines() if folder.log.exists() else []
    code, _, detail = (lines[-1] if lines else "").partition(": ")
    return (
        FinFlowError(code, detail) if code in CATALOGUE else FinFlowError("internal", "\n".join(lines[-5:]))
    )


async def stop(folder: ShadowFolder, *, keep_clone: bool = False) -> Report | None:
    """End the process and remove the clone; report and cases stay. Its last report, or None.

    Raises shadow_not_running where nothing runs and nothing is left.
    """
    runner = folder.runner()
    settings = folder.settings()
    if runner is None and not folder.marked and not folder.clone.root.exists():
        raise FinFlowError("shadow_not_running", f"nothing runs in {folder.root}")
    if runner is not None:
        processes.send(runner, signal.SIGTERM)
        if not await processes.wait_gone([runner], _STOP_TIMEOUT_S):
            processes.send(runner, signal.SIGKILL)
            await processes.wait_gone([runner], _STOP_TIMEOUT_S)
    if not keep_clone:
        if not settings.embedded and folder.marked:
            await _wipe(folder.clone_url())
        await folder.drop_clone()
    return read_report(folder.root)


async def _wipe(clone_url: str) -> None:
    connection = await connect(clone_url, application_name="finflow shadow", command_timeout_s=None)
    try:
        await store.wipe(connection)
    finally:
        await connection.close(timeout=5)


# --- the process -------------------------------------------------------------------------------------------


async def run(folder: ShadowFolder, live_url: str, stopping: asyncio.Event) -> None:
    """Clone what is not cloned, then replay until told to stop."""
    settings = folder.settings()
    handle = folder.lock()
    if handle is None:
        raise FinFlowError("shadow_running", f"another process replays in {folder.root}")
    try:
        async with _cloned(folder, settings, live_url) as clone_url:
            path = None if settings.allowances is None else Path(settings.allowances)
            what = ShadowSettings(
                live_url=live_url, clone_url=clone_url, folder=folder.root, baseline=settings.baseline,
                allowances=read_allowances(path),
            )  # fmt: skip
            async with shadowing(what) as shadow:
                try:
                    await shadow.run(stopping)
                    write_report(folder.root, await shadow.report("stopped"))
                except BaseException as error:
                    shadow.last_error = f"{type(error).__name__}: {error}"
                    with contextlib.suppress(Exception):
                        write_report(folder.root, await shadow.report("failed"))
                    raise
    finally:
        os.close(handle)


@asynccontextmanager
async def _cloned(folder: ShadowFolder, settings: Settings, live_url: str) -> AsyncIterator[str]:
    """The URL of the marked clone, made now unless it is there."""
    if not settings.embedded:
        clone_url = _named(CLONE_URL)
        if not folder.marked:
            await clone.copy_database(live_url, clone_url)
            await _mark(folder, clone_url)
        yield clone_url
        return
    if not folder.marked:
        # What a killed process has left of a clone is of no use.
        await folder.drop_clone()
    async with clone.cloned_server(live_url, folder.clone) as server:
        clone_url = server.url(settings.database)
        if not folder.marked:
            await _mark(folder, clone_url)
        yield clone_url


async def _mark(folder: ShadowFolder, clone_url: str) -> None:
    connection = await connect(clone_url, application_name="finflow shadow", command_timeout_s=None)
    try:
        await store.mark(connection)
    finally:
        await connection.close(timeout=5)
    folder.mark()


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """Replays in a folder until SIGTERM. What ends it otherwise stands in the last line of its log."""
    folder = ShadowFolder(Path(arguments[0]))
    give_way(NICENESS)

    async def until_told() -> None:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        working = asyncio.create_task(run(folder, environ.get(LIVE_URL) or _named(LIVE_URL), stopping))

        def told() -> None:
            stopping.set()
            # A clone that is being made has nothing to finish.
            loop.call_later(_GRACE_S, working.cancel)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        await working

    try:
        uvloop.run(until_told())
    except asyncio.CancelledError:
        return 0
    except FinFlowError as error:
        _last_line(f"{error.kind.code}: {error.detail}")
        return error.kind.exit_code
    return 0


def _last_line(text: str) -> None:
    sys.stderr.write(text.replace("\n", " ") + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
