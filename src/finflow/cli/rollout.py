"""`finflow rollout`: the noun, and the verbs that begin a rollout. Other verbs load when they are used."""

import importlib
from typing import TYPE_CHECKING, Any, Final

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO

if TYPE_CHECKING:
    from finflow.app.rollouts import Composed, Service
    from finflow.rollout.events import Entry
    from finflow.rollout.spec import RolloutSpec
    from finflow.rollout.state import State

# One line a verb or a noun below: where it lives.
VERBS: Final[dict[str, str]] = {
    "start": "finflow.cli.rollout:start",
    "run": "finflow.cli.rollout:run_",
    "validate": "finflow.cli.rollout:validate",
    "schema": "finflow.cli.rollout:schema_",
    "show": "finflow.cli.rollout_reading:show",
    "status": "finflow.cli.rollout_reading:status",
    "promote": "finflow.cli.rollout_orders:promote",
    "pause": "finflow.cli.rollout_orders:pause",
    "resume": "finflow.cli.rollout_orders:resume",
    "approve": "finflow.cli.rollout_orders:approve",
    "abort": "finflow.cli.rollout_orders:abort",
    "down": "finflow.cli.rollout_down:down",
    "history": "finflow.cli.rollout_reading:history",
    "log": "finflow.cli.rollout_reading:log_",
    "dora": "finflow.cli.rollout_reading:dora_",
    "judge": "finflow.cli.rollout_judge:judge",
    "impact": "finflow.cli.rollout_impact:impact",
    "shadow": "finflow.cli.rollout_shadow:shadow",
    "repair": "finflow.cli.rollout_repair:repair",
}


class Verbs(click.Group):
    """A group whose verbs are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Verbs)
def rollout() -> None:
    """Move a service to a new release step by step, judged at each; a bad one takes itself back."""


spec_argument = click.argument("spec", metavar="SPEC.yaml")
service_argument = click.argument("service", required=False)


def place(data: str | None, name: str | None) -> "Service":
    """The service that a command is about: the named one, or the only one."""
    from finflow.app import Config
    from finflow.app.rollouts import service

    return service(Config.load({"data": data}).data, name)


@click.command
@spec_argument
@json_option
def validate(spec: str, as_json: bool) -> int:
    """Check a specification: every fault with its line and column."""
    from pathlib import Path

    from finflow.kernel.errors import FinFlowError
    from finflow.rollout.spec import parsed, shown

    try:
        found, faults = parsed(Path(spec).read_bytes())
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{spec}: {error.strerror}", "SPEC") from error
    if as_json:
        echo_json({"valid": found is not None, "faults": sorted(faults)})
    elif found is None:
        click.echo("\n".join(shown(spec, faults)))
    else:
        click.echo(_plan(found))
    return EXIT_DONE if found is not None else EXIT_NO


@click.command("schema")
def schema_() -> None:
    """Print the JSON schema of a specification, for editors."""
    from finflow.rollout.spec import schema

    echo_json(schema())


@click.command
@spec_argument
@click.option("--detach", is_flag=True, help="Leave the controller running and return.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--again", is_flag=True, help="Repeat a rollout that was taken back, as it is.")
@data_option
@json_option
def start(spec: str, detach: bool, dry_run: bool, again: bool, data: str | None, as_json: bool) -> int:
    """Begin a rollout, or go on with it where it stands; exit 0 promoted, 1 taken back."""
    from pathlib import Path

    from finflow.rollout.spec import loaded

    path = Path(spec)
    found = loaded(path)
    if dry_run:
        click.echo(_plan(found))
        return EXIT_DONE
    place_ = _service(data, found.service)
    state = _interruptible(_begun(place_, found, path.absolute().parent, again, detach))
    if detach and not state.ended:
        return _detached(place_, as_json)
    return _ended(state, as_json)


@click.command("run")
@service_argument
@click.option("--detach", is_flag=True, help="Leave the controller running and return.")
@data_option
@json_option
def run_(service: str | None, detach: bool, data: str | None, as_json: bool) -> int:
    """Go on with a rollout whose controller is gone; exit 0 promoted, 1 taken back."""
    place_ = place(data, service)
    if detach:
        return _detached(place_, as_json)
    return _ended(_interruptible(carried_on(place_)), as_json)


def _service(data: str | None, name: str) -> "Service":
    from finflow.app import Config
    from finflow.app.rollouts import Service

    return Service(Config.load({"data": data}).data, name)


async def _begun(place_: "Service", spec: "RolloutSpec", folder: Any, again: bool, detach: bool) -> "State":
    from finflow.app.rollout_world import composed
    from finflow.app.rollouts import Session

    async with Session(place_) as session:
        # Everything that the spec names is built before anything is begun: what is missing is said now.
        async with composed(spec, place_.data, folder):
            state = session.begin(spec, folder, again)
        return state if detach or state.ended else await session.carry_on(composed, told)


async def carried_on(place_: "Service", compose: "Composed | None" = None) -> "State":
    """Controls the last rollout of a service in this process."""
    from finflow.app.rollout_world import composed
    from finflow.app.rollouts import Session

    place_.last()
    async with Session(place_) as session:
        return await session.carry_on(compose or composed, told)


def told(entry: "Entry", state: "State") -> None:
    """A line on standard error for each decision, as it is taken."""
    from finflow.rollout import events as e

    if state.decisions and state.decisions[-1].at == entry.at and not isinstance(entry.told, e.Looked):
        last = state.decisions[-1]
        click.echo(f"{last.at[11:19]}  {last.who:<16.16} {last.words}", err=True)


def _interruptible(work: Any) -> "State":
    """Ctrl-C and SIGTERM end the controller and leave the split as it is."""
    from finflow.cli.until import Stop, run

    found: list[State] = []

    async def body(stop: Stop) -> None:
        found.append(await work)

    try:
        run(body)
    except KeyboardInterrupt:
        click.echo(
            "The split stays as it is. `finflow rollout run` goes on, `abort` takes it back.", err=True
        )
        raise
    return found[0]


def _ended(state: "State", as_json: bool) -> int:
    from finflow.rollout.state import Phase

    if as_json:
        echo_json(summary(state))
    else:
        click.echo(f"{state.candidate} {state.phase}: {state.reason}")
    return EXIT_DONE if state.phase is Phase.PROMOTED else EXIT_NO


def summary(state: "State") -> dict[str, Any]:
    """What programs want to know of a rollout."""
    names = (
        "rollout_id", "service", "baseline", "candidate", "commit", "phase", "step", "weight_bp", "paused",
        "awaiting", "reason", "started_at", "started_by", "first_served_at", "full_at", "detected_at",
        "taken_back_at", "ended_at", "impact",
    )  # fmt: skip
    found = {name: getattr(state, name) for name in names}
    return {**found, "step": state.step + 1, "verdict": state.verdict, "baked_s": round(state.baked_s, 3)}


def _detached(place_: "Service", as_json: bool) -> int:
    """A controller in a session of its own, which goes on when this terminal is closed."""
    import os
    import subprocess
    import sys
    import time

    command = [sys.executable, "-m", "finflow", "rollout", "run", place_.name, "--data", str(place_.data)]
    path = place_.folder / "controller.log"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    epoch = _epoch(place_)
    for _ in range(300):
        if _epoch(place_) > epoch or process.poll() is not None:
            break
        time.sleep(0.05)
    if as_json:
        echo_json({"service": place_.name, "controller": process.pid})
    else:
        click.echo(f"Process {process.pid} controls {place_.name}; it writes to {path}.")
        click.echo(f"hint: finflow rollout show {place_.name} --watch", err=True)
    return EXIT_DONE if process.poll() in (None, 0) else EXIT_NO


def _epoch(place_: "Service") -> int:
    from finflow.rollout.fold import folded

    return folded(place_.last()).epoch


def _plan(spec: "RolloutSpec") -> str:
    from finflow.cli import screens
    from finflow.rollout.spec import processes_for

    rows = [
        (
            i + 1, f"{step.weight_percent:g} %", processes_for(spec, i), f"{step.bake_s:g} s",
            step.minimum_requests, "yes" if step.approval else "-",
        )
        for i, step in enumerate(spec.steps)
    ]  # fmt: skip
    head = ("STEP", "WEIGHT", "PROCESSES", "BAKE", "REQUESTS", "APPROVAL")
    table = screens.table(head, rows, frozenset(head))
    return f"{spec.service}: {spec.baseline.release} -> {spec.candidate.release}\n\n{table}"
