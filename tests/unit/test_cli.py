"""The command line's frame: what it says, how it ends, and what it does not import."""

import subprocess
import sys

import click
import pytest

from finflow import cli
from finflow.kernel.errors import FinFlowError

# Each of these costs more than the whole of `finflow --help` may.
_HEAVY = {"asyncio", "asyncpg", "aiohttp", "granian", "litestar", "msgspec", "rich", "uvloop"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, finflow.cli\n"
        "try: finflow.cli.main(['--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "up " in done.stdout
    assert _HEAVY & set(done.stderr.split()) == set()


@pytest.mark.parametrize("noun", ["tenant", "ledger", "account", "transaction", "fx"])
def test_the_help_of_a_noun_imports_no_client(noun: str) -> None:
    code = (
        "import sys, finflow.cli\n"
        f"try: finflow.cli.main([{noun!r}, '--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    # The catalogue of errors, which the exit codes come from, is made with msgspec.
    assert (_HEAVY - {"msgspec"}) & set(done.stderr.split()) == set()


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    command = cli.finflow.get_command(click.Context(cli.finflow), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == cli.COMMANDS[name][1]


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    output = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.out, output.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--version"], capsys) == (0, "finflow, version 0.1.0\n", "")


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["up", "--no-such-option"], ["up", "--port", "x"]]
)
def test_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(arguments, capsys)
    assert (status, out) == (2, "")
    assert "Error:" in err


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (
            FinFlowError("stack_not_running", "Nothing runs here."),
            1,
            "Error: FinFlow does not run on this data folder.\n  Nothing runs here.\n"
            "hint: Start it with `finflow up`.\n",
        ),
        (FinFlowError("database_unreachable"), 3, "Error: The database cannot be reached.\n"),
        (FinFlowError("setting_malformed"), 2, "Error: A setting has a value that it cannot have.\n"),
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError("boom"), 4, "ZeroDivisionError: boom\nError: Something broke that should not.\n"),
    ],
)
def test_how_a_command_ends(
    raised: BaseException,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise raised

    command = click.Command("fail", callback=fail)
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
    ended, out, err = _run(["fail"], capsys)
    assert (ended, out) == (status, "")
    assert said in err
