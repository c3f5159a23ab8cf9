"""The stack, started for real: killed, started again, on odd paths and on a full disk."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from finflow.db.migrations import migrate
from finflow.kernel.errors import FinFlowError
from finflow.stack import ports, processes
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from finflow.stack.service import Stack, StackSettings, running

_STUBS = Path(__file__).parents[1] / "stubs"


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ff-"))
    yield folder / "data"
    shutil.rmtree(folder)


def _settings(data: Path, workers: int = 1) -> StackSettings:
    return StackSettings(
        data=data,
        workers=workers,
        target="finflow_stub_api:application",
        environment={"PYTHONPATH": str(_STUBS)},
    )


@pytest.fixture
async def stack(data: Path) -> AsyncIterator[Stack]:
    async with running(_settings(data, workers=2)) as stack:
        yield stack


async def _fetch(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def _eventually_fetch(url: str, query: str) -> object:
    """The answer of a server that is just coming back; the test's time limit ends a vain wait."""
    while True:
        try:
            return await _fetch(url, query)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.05)


async def test_serves_on_a_durable_database_and_stops_whole(data: Path) -> None:
    async with running(_settings(data, workers=2)) as stack:
        host, _, port = stack.url.removeprefix("http://").partition(":")
        assert await ports.http_status(host, int(port), "/readyz") == 200
        assert len(stack.worker_pids) == 2
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "jit": "off",
            "server_encoding": "UTF8",
        }.items():
            assert await _fetch(stack.database_url, f"SELECT current_setting('{name}')") == value
        family = [
            *stack.worker_pids,
            *(each.pid for each in stack.fleet.processes),
            stack.postgres_process.pid,
        ]
        assert data.stat().st_mode & 0o077 == 0, "nobody else may reach the socket"
        state = stack.folder.read_state()
        assert state is not None
        assert (state.up.pid, state.url) == (os.getpid(), stack.url)
    assert [pid for pid in family if processes.identify(pid)] == []
    assert stack.folder.read_state() is None


async def test_a_second_one_on_the_same_data_is_refused(stack: Stack, data: Path) -> None:
    with pytest.raises(FinFlowError, match=f"Process {os.getpid()} .* at {stack.url}") as caught:
        async with running(_settings(data)):
            pass
    assert caught.value.kind.code == "stack_running"


async def test_a_killed_worker_is_replaced_while_the_other_serves(stack: Stack) -> None:
    port = int(stack.url.rpartition(":")[2])
    for _ in range(3):
        before = stack.worker_pids
        os.kill(before[0], signal.SIGKILL)
        while len(stack.worker_pids) < 2 or before[0] in stack.worker_pids or ports.listening(port) < 2:
            await asyncio.sleep(0.02)
        assert await ports.http_status("127.0.0.1", port, "/readyz") == 200


async def test_what_is_said_of_a_killed_worker_is_json_too(stack: Stack) -> None:
    killed, log = stack.worker_pids[0], stack.folder.logs / "api.log"
    os.kill(killed, signal.SIGKILL)
    while "Unexpected exit" not in log.read_text():
        await asyncio.sleep(0.02)
    [line] = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["level"], line["message"]) == ("error", "Unexpected exit from worker-1")


async def test_no_row_and_no_key_is_in_the_log_of_the_server(stack: Stack) -> None:
    """An error quotes in its detail what broke a rule, and its statement is what somebody may have typed."""
    connection = await asyncpg.connect(stack.database_url, server_settings={"application_name": "rows"})
    try:
        await connection.execute("create table people (name text unique check (length(name) > 3))")
        for statement in ["insert into people values ($1)"] * 3:
            with contextlib.suppress(asyncpg.UniqueViolationError):
                await connection.execute(statement, "john.doe@example.com")
        for name in ("john.doe@example.com", "jo"):
            typed = f"insert into people values ('{name}')"  # noqa: S608 - as somebody would in psql
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                await connection.execute(typed)
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.copy_records_to_table("people", records=[("john.doe@example.com",)])
    finally:
        await connection.close()
    log = (stack.folder.logs / "postgres.log").read_text()
    said = [line for line in log.splitlines() if "] rows " in line]
    assert sum("violates unique constraint" in line for line in said) == 4
    assert sum("violates check constraint" in line for line in said) == 1
    assert [line for line in said if "ERROR:" not in line] == []
    assert "john" not in log


async def test_a_killed_postmaster_is_started_again_with_its_data(stack: Stack) -> None:
    await _fetch(stack.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed = stack.postgres_process
    os.kill(killed.pid, signal.SIGKILL)
    assert await processes.wait_gone([killed], 10)
    assert await _eventually_fetch(stack.database_url, "SELECT answer FROM kept") == 42
    assert stack.postgres_process != killed


async def test_recovers_when_a_backend_outlives_its_killed_postmaster(data: Path) -> None:
    first = EmbeddedPostgres(DataFolder(data))
    await first.start()
    await _fetch(first.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    backend = processes.children(first.process.pid)[0]
    # A stopped backend does not see that its postmaster is gone: the worst orphan there is.
    os.kill(backend, signal.SIGSTOP)
    os.kill(first.process.pid, signal.SIGKILL)
    await first.exited()
    second = EmbeddedPostgres(DataFolder(data))
    await second.start()
    assert await _fetch(second.url(), "SELECT answer FROM kept") == 42
    assert processes.identify(backend) is None
    await second.stop()


async def test_takes_the_data_over_from_a_server_that_still_runs(data: Path) -> None:
    orphan = EmbeddedPostgres(DataFolder(data))
    await orphan.start()
    heir = EmbeddedPostgres(DataFolder(data))
    await heir.start()
    assert await orphan.exited() == 0, "it was shut down, not killed"
    assert await _fetch(heir.url(), "SELECT 1") == 1
    await heir.stop()


async def test_an_interrupted_initialisation_starts_over(data: Path) -> None:
    (data / "postgres.new" / "base").mkdir(parents=True)
    server = EmbeddedPostgres(DataFolder(data), durable=False)
    await server.start()
    assert await _fetch(server.url(), "SELECT 1") == 1
    await server.stop()


@pytest.mark.parametrize(
    "name", ["x" * 120, "a folder, with 'quotes'", "ünïcode"], ids=["long", "odd", "utf8"]
)
async def test_any_path_will_do(data: Path, name: str) -> None:
    server = EmbeddedPostgres(DataFolder(data / name), durable=False)
    await server.start()
    assert await _fetch(server.url(), "SELECT current_setting('data_directory')") == str(
        data / name / "postgres"
    )
    await server.stop()


async def test_a_data_folder_that_is_a_file_is_refused(data: Path) -> None:
    data.write_text("not a folder")
    with pytest.raises(FinFlowError) as caught:
        async with running(_settings(data)):
            pass
    assert caught.value.kind.code == "data_unusable"


async def test_data_of_another_major_version_is_refused(data: Path) -> None:
    server = EmbeddedPostgres(DataFolder(data), durable=False)
    await server.start()
    await server.stop()
    (data / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(FinFlowError) as caught:
        await server.start()
    assert caught.value.kind.code == "data_version"


@pytest.mark.parametrize(
    ("log_to_stdout", "told"),
    [(False, "No module named 'no_such_module'"), (True, "on standard output")],
    ids=["files", "stdout"],
)
async def test_a_target_that_cannot_be_imported_is_reported(
    data: Path, capfd: pytest.CaptureFixture[str], log_to_stdout: bool, told: str
) -> None:
    settings = StackSettings(
        data=data, workers=1, target="no_such_module:application", durable=False, log_to_stdout=log_to_stdout
    )
    with pytest.raises(FinFlowError, match=told) as caught:
        async with running(settings):
            pass
    assert caught.value.kind.code == "service_failed"
    assert ("No module named" in capfd.readouterr().out) == log_to_stdout
    assert DataFolder(data).read_state() is None


async def test_a_worker_that_cannot_start_says_why(data: Path) -> None:
    """What the server in it logs of that is a line of JSON, with a group of exceptions in it."""
    nowhere = {"FINFLOW_RAILS_FOLDER": str(data / "nowhere")}
    settings = StackSettings(data=data, workers=1, environment=nowhere, durable=False)
    with pytest.raises(FinFlowError, match=r"FinFlowError: .*nowhere: No such file") as caught:
        async with running(settings):
            pass
    assert caught.value.kind.code == "service_failed"
    assert all(json.loads(line) for line in (data / "logs" / "api.log").read_text().splitlines())


def test_a_port_is_reserved_for_our_workers_alone() -> None:
    with ports.reserve("127.0.0.1", None) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(FinFlowError, match=str(port)) as caught:
            ports.reserve("127.0.0.1", port)
        assert caught.value.kind.code == "port_taken"
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            assert ports.listening(port) == 0
            worker.listen()
            assert ports.listening(port) == 1
            with ports.reserve("127.0.0.1", None) as other:
                assert other.getsockname()[1] != port


@pytest.fixture
def mount(data: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many megabytes on the data folder."""
    data.mkdir(mode=0o700)

    def mount(size_mb: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tmpfs", data]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("only root can mount a small file system here")
        return data

    yield mount
    subprocess.run(["umount", "-l", data], capture_output=True)


async def test_a_disk_too_small_for_a_database_is_reported(mount: Callable[[int], Path]) -> None:
    server = EmbeddedPostgres(DataFolder(mount(24)))
    with pytest.raises(FinFlowError) as caught:
        await server.start()
    assert caught.value.kind.code == "database_full"
    assert caught.value.kind.exit_code == 3


async def test_a_disk_that_filled_up_is_reported_and_room_on_it_mends_all(
    mount: Callable[[int], Path],
) -> None:
    folder = DataFolder(mount(160))
    server = EmbeddedPostgres(folder)
    await server.start()
    await _fetch(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    await server.stop()
    ballast = folder.root / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(FinFlowError) as caught:
        await server.start()
    assert caught.value.kind.code == "database_full"
    ballast.unlink()
    await server.start()
    assert await _fetch(server.url(), "SELECT answer FROM kept") == 42
    await server.stop()


async def test_a_migration_that_fills_the_disk_is_reported(
    mount: Callable[[int], Path], tmp_path: Path
) -> None:
    server = EmbeddedPostgres(DataFolder(mount(160)))
    await server.start()
    large = (
        "CREATE UNLOGGED TABLE large AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 400000) i;"
    )
    (tmp_path / "0001_large.sql").write_text(large)
    with pytest.raises(FinFlowError) as caught:
        await migrate(server.url(), tmp_path)
    assert caught.value.kind.code == "database_full"
    assert await _fetch(server.url(), "SELECT count(*) FROM schema_migrations") == 0
    await server.stop()


@pytest.fixture
def as_nobody(data: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    data.parent.chmod(0o711)
    return data


async def test_runs_as_nobody_where_user_namespaces_are_forbidden(as_nobody: Path) -> None:
    server = EmbeddedPostgres(DataFolder(as_nobody), durable=False, identity="nobody")
    await server.start()
    assert Path(f"/proc/{server.process.pid}").stat().st_uid == 65534
    assert await _fetch(server.url(), "SELECT 1") == 1
    await server.stop()


async def test_says_which_folder_nobody_cannot_pass(as_nobody: Path) -> None:
    closed = as_nobody.parent / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(DataFolder(closed / "data"), identity="nobody")
    with pytest.raises(FinFlowError, match=f"may not pass {closed}") as caught:
        await server.start()
    assert caught.value.kind.code == "data_unusable"
