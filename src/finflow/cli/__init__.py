"""The `finflow` command. This file knows the commands' names and nothing of what they do: they load late."""

import importlib
import os
import sys
from typing import Any, Final, NoReturn

import click

from finflow import __version__

# One line a command: where it lives, what `finflow --help` says about it. A test keeps the sentence equal
# to the command's own; each command is `cli/<module>.py:<object>`.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("finflow.cli.up:up", "Start the database and the API, and run until Ctrl-C."),
    "status": ("finflow.cli.status:status", "Say whether FinFlow runs, and how well."),
    "top": (
        "finflow.cli.top:top",
        "Watch requests, latency, group commit, tenants and releases, until Ctrl-C.",
    ),
    "info": (
        "finflow.cli.info:info",
        "Show every setting, where its value comes from, and the paths in use.",
    ),
    "log-level": (
        "finflow.cli.log_level:log_level",
        "Show or change what the running FinFlow logs; `configured` takes a change back.",
    ),
    "down": ("finflow.cli.down:down", "Stop what `finflow up` started."),
    "migrate": ("finflow.cli.migrate:migrate", "Bring the database's schema up to date."),
    "db": (
        "finflow.cli.db:db",
        "Change a schema in phases: plan, lint, expand, backfill, verify, contract.",
    ),
    "tenant": ("finflow.cli.tenant:tenant", "Add tenants, list them, say how much each may take."),
    "ledger": ("finflow.cli.ledger:ledger", "Open ledgers, read them, check their books."),
    "account": ("finflow.cli.account:account", "Open, read and change accounts."),
    "transaction": (
        "finflow.cli.transaction:transaction",
        "Post, hold, read, capture, void and reverse transactions.",
    ),
    "client": (
        "finflow.cli.client:client",
        "Add programs that may ask for access tokens, rotate their keys, revoke them.",
    ),
    "token": ("finflow.cli.token:token", "Print an access token for local use."),
    "key": ("finflow.cli.key:key", "List, rotate and revoke the keys that sign access tokens."),
    "fx": ("finflow.cli.fx:fx", "Push and find rates, quote, convert, show positions."),
    "import": (
        "finflow.cli.import_:import_",
        "Import bank history from a CSV file; a second run posts nothing twice.",
    ),
    "generate": ("finflow.cli.generate:generate", "Write a realistic bank history made from a seed."),
    "settlement": (
        "finflow.cli.settlement:settlement",
        "Follow settlement cycles; check payment messages, net obligations, ask for value dates.",
    ),
    "rollout": (
        "finflow.cli.rollout:rollout",
        "Move a service to a new release step by step, judged at each; a bad one takes itself back.",
    ),
    "release": ("finflow.cli.release:release", "Build, list, check and remove releases."),
    "verify": (
        "finflow.cli.verify:verify",
        "Check a deployment: critical paths, databases, certificates, queues, alerts.",
    ),
    "demo": (
        "finflow.cli.demo:demo",
        "Move a bank to a new release under live traffic: a bad one is taken back, a good one goes to all.",
    ),
}
_INTERRUPTED: Final = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run, so that `finflow --help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="finflow")
def finflow() -> None:
    """A neo-banking core on PostgreSQL: accounts, a double-entry ledger, one command."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 done, 1 no, 2 usage, 3 unreachable, 4 a bug, 130 interrupted."""
    try:
        answer = finflow.main(arguments, prog_name="finflow", standalone_mode=False)
        status = answer if isinstance(answer, int) else 0
    except click.Abort:
        status = _INTERRUPTED
    except (KeyboardInterrupt, BrokenPipeError) as error:
        status = _quietly(error)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except Exception as error:  # noqa: BLE001,RUF100 - the last place that can turn a bug into words
        status = _explain(error)
    sys.exit(status)


def _quietly(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        # The reader went away (`finflow ... | head`); the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _INTERRUPTED


def _explain(error: Exception) -> int:
    """Three lines on standard error: what happened, why, what to do next; the exit code of it."""
    from finflow.kernel.errors import CATALOGUE, EXIT_BUG, FinFlowError  # a run without errors needs none

    if isinstance(error, FinFlowError):
        _three_lines(error.kind.title, error.detail, error.kind.hint)
        return error.kind.exit_code
    import traceback

    kind = CATALOGUE["internal"]
    traceback.print_exception(error, file=sys.stderr)
    _three_lines(kind.title, f"{type(error).__name__}: {error}", kind.hint)
    return EXIT_BUG


def _three_lines(title: str, detail: str, hint: str) -> None:
    click.echo(f"Error: {title}", err=True)
    click.echo(f"  {detail}", err=True)
    click.echo(f"hint: {hint}", err=True)


def echo_json(value: Any) -> None:
    """One line of JSON on standard output."""
    import msgspec

    click.echo(msgspec.json.encode(value, enc_hook=str).decode())
