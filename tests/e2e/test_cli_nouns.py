"""`finflow tenant|ledger|account|transaction` from a shell: what is printed where, and the exit code.

The screens themselves are compared in docs/howto/command-line.md and docs/tutorial/your-first-bank.md.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import Stack, started

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with started() as stack:
        yield stack


def finflow(environment: dict[str, str], *words: str, typed: str = "") -> Done:
    command = [sys.executable, "-m", "finflow", *words]
    return subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, timeout=120)


class Shell:
    """Commands in one ledger."""

    def __init__(self, stack: Stack) -> None:
        self.environment = stack.environment()
        self.tenant_id = self.made("tenant", "create", "Shell")
        self.ledger_id = self.made("ledger", "create", "Shell", "--tenant", self.tenant_id)

    def __call__(self, *words: str, typed: str = "") -> Done:
        return finflow(self.environment, *words, typed=typed)

    def made(self, *words: str) -> str:
        done = self(*words, "--id")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def read(self, *words: str) -> Any:
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def account(self, kind: str = "liability", *more: str) -> str:
        words = ("account", "open", "--ledger", self.ledger_id, "--kind", kind, "--currency", "SGD")
        return self.made(*words, *more)


@pytest.fixture(scope="module")
def shell(stack: Stack) -> Shell:
    return Shell(stack)


def test_a_hold_lives_and_dies(shell: Shell) -> None:
    vault, alice = shell.account("asset", "--overdraft-limit", "unlimited"), shell.account()
    sides = ("--debit", vault, "--credit", alice)
    first = shell.read("transaction", "post", *sides, "--amount", "10", "--metadata", "a=b=c")
    assert (first["status"], first["metadata"]) == ("posted", {"a": "b=c"})
    hold = shell.made("transaction", "hold", *sides, "--amount", "5", "--timeout-s", "600")
    assert shell.read("transaction", "show", hold)["status"] == "pending"
    assert shell.read("transaction", "void", hold)["status"] == "voided"
    reversal = shell.read("transaction", "reverse", first["transaction_id"], "--description", "Back")
    assert reversal["reverses_id"] == first["transaction_id"]
    kinds = [
        each["kind"]
        for each in shell.read("transaction", "list", "--ledger", shell.ledger_id, "--account", alice)
    ]
    assert kinds == ["post", "hold", "void", "reverse"]
    assert shell.read("account", "balance", alice)["balance"] == "0.00"
    assert shell.read("account", "balance", alice, "--at-seq", str(first["seq"]))["balance"] == "10.00"
    versions = [each["version"] for each in shell.read("account", "entries", alice)]
    assert versions == [4, 3, 2, 1]


def test_closing_asks_and_the_default_is_no(shell: Shell) -> None:
    account_id = shell.account()
    asked = shell("account", "close", account_id, typed="\n")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "for ever?" in asked.stderr
    assert shell.read("account", "show", account_id)["status"] == "open"
    assert shell("account", "close", account_id, typed="y\n").returncode == 0
    assert shell.read("account", "show", account_id)["status"] == "closed"


def test_a_change_can_depend_on_what_was_read(shell: Shell) -> None:
    account_id = shell.account()
    etag = shell.read("account", "show", account_id)["etag"]
    change = ("account", "set", account_id, "--upper-limit", "10", "--if-match", etag)
    assert shell.read(*change)["upper_limit"] == "10.00"
    late = shell("account", "set", account_id, "--upper-limit", "none", "--if-match", etag)
    assert (late.returncode, late.stdout) == (1, "")
    assert "precondition_failed" in late.stderr


def test_lists_say_when_there_is_more(shell: Shell) -> None:
    for _ in range(3):
        shell.account()
    some = shell("account", "list", "--ledger", shell.ledger_id, "--limit", "2")
    assert len(some.stdout.splitlines()) == 3
    assert some.stderr == "There are more than 2; --limit shows more.\n"
    tenants = shell.read("tenant", "list", "--limit", "1000")
    assert shell.tenant_id in [each["tenant_id"] for each in tenants]
    assert [each["ledger_id"] for each in shell.read("ledger", "list")].count(shell.ledger_id) == 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            ("account", "show", "acc_x"),
            1,
            "Error: No such account or transaction.\n  resource_unknown: 'acc_x' is not an id",
        ),
        (("ledger", "show", "led_x"), 1, "ledger_unknown"),
        (("account", "balance", "acc_x", "--as-of", "yesterday"), 2, "request_malformed (as_of)"),
        (("transaction", "post", "--debit", "a=1"), 2, "Missing option '--credit'"),
        (("transaction", "post", "--debit", "a", "--credit", "b=1"), 2, "--debit a=AMOUNT"),
        (("account", "set", "acc_x"), 2, "Say what to change"),
        (
            ("account", "open", "--ledger", "l", "--kind", "bank", "--currency", "SGD"),
            2,
            "'bank' is not one of",
        ),
        (("account", "freeze", "acc_x", "--metadata", "a"), 2, "No such option"),
    ],
)
def test_what_goes_wrong(shell: Shell, words: tuple[str, ...], status: int, said: str) -> None:
    done = shell(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_nothing_is_coloured_off_a_terminal(shell: Shell) -> None:
    environment = {name: value for name, value in shell.environment.items() if name != "NO_COLOR"}
    for words in (("ledger", "list"), ("account", "show", "acc_x"), ("account", "--help")):
        done = finflow(environment, *words)
        assert "\x1b" not in done.stdout + done.stderr


def test_nobody_answers(shell: Shell) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        done = shell("ledger", "list", "--url", url)
    assert (done.returncode, done.stdout) == (3, "")
    assert "api_unreachable" in done.stderr


def test_nothing_runs_and_nothing_is_started(shell: Shell, tmp_path: Path) -> None:
    environment = {name: value for name, value in shell.environment.items() if name != "FINFLOW_URL"}
    done = finflow(environment, "ledger", "list", "--data", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nothing runs on" in done.stderr
    assert not (tmp_path / "none").exists()


def test_the_stack_of_the_data_folder_is_found(shell: Shell) -> None:
    environment = {name: value for name, value in shell.environment.items() if name != "FINFLOW_URL"}
    done = finflow(environment, "ledger", "show", shell.ledger_id, "--json")
    assert json.loads(done.stdout)["ledger_id"] == shell.ledger_id
