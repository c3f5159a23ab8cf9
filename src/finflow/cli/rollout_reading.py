"""`finflow rollout show|status|history|log|dora`: what the decision log says. They change nothing."""

import time
from typing import TYPE_CHECKING, Any, Final

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.cli.rollout import place, service_argument, summary
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, EXIT_UNREACHABLE

if TYPE_CHECKING:
    from finflow.app.rollouts import Service
    from finflow.rollout.dora import Delivery
    from finflow.rollout.log import Verified
    from finflow.rollout.state import State

_WATCH_EVERY_S: Final = 0.5
_POLL_S: Final = 0.2


@click.command
@service_argument
@click.option("--watch", is_flag=True, help="Follow it until it ends, or Ctrl-C.")
@data_option
@json_option
def show(service: str | None, watch: bool, data: str | None, as_json: bool) -> int:
    """Show where a rollout stands: steps, split, gates, processes, decisions."""
    place_ = place(data, service)
    if as_json:
        echo_json({**summary(_state(place_)), "controller": place_.controller})
        return EXIT_DONE
    if watch:
        _watch(place_)
    else:
        _print(place_)
    return EXIT_DONE


def _state(place_: "Service") -> "State":
    from finflow.rollout.fold import folded

    return folded(place_.last())


def _screen(place_: "Service") -> Any:
    from rich.text import Text

    from finflow.app.rollouts import spec_of
    from finflow.cli.rollout_screen import screen
    from finflow.rollout.fold import folded

    entries = place_.last()
    lines = screen(spec_of(entries)[0], folded(entries), place_.controller)
    return Text("\n").join(Text.assemble(*line) for line in lines)


def _print(place_: "Service") -> None:
    from rich.console import Console

    console = Console()
    console.print(_screen(place_), soft_wrap=not console.is_terminal)


def _watch(place_: "Service") -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(_screen(place_), refresh=True)
            if _state(place_).ended:
                break
            time.sleep(_WATCH_EVERY_S)
    if console.is_terminal:
        # The other screen is gone now; what it ended with stays.
        _print(place_)


@click.command
@service_argument
@click.option("--wait", is_flag=True, help="Wait until the rollout has ended.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait so long at most."
)
@data_option
@json_option
def status(service: str | None, wait: bool, timeout_s: float | None, data: str | None, as_json: bool) -> int:
    """Say in a line where a rollout stands; exit 0 promoted, 1 taken back or degraded, 3 not yet."""
    place_ = place(data, service)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    state = _state(place_)
    while wait and not state.ended and (deadline is None or time.monotonic() < deadline):
        time.sleep(_POLL_S)
        state = _state(place_)
    if as_json:
        echo_json({**summary(state), "controller": place_.controller})
    else:
        click.echo(_line(state))
    return _exit_code(state, place_.controller)


def _line(state: "State") -> str:
    more = state.paused or ("waits for approval" if state.awaiting else state.reason)
    at = f"step {state.step + 1}, {state.weight_bp / 100:g} %"
    return f"{state.service}: {state.candidate} {state.phase}, {at}" + (f": {more}" if more else "")


def _exit_code(state: "State", controller: int | None) -> int:
    """Degraded is what goes no further by itself: paused, or without anybody who carries it on."""
    from finflow.rollout.state import Phase

    if state.phase is Phase.PROMOTED:
        return EXIT_DONE
    degraded = state.ended or state.phase is Phase.ABORTING or bool(state.paused) or controller is None
    return EXIT_NO if degraded else EXIT_UNREACHABLE


@click.command
@service_argument
@data_option
@json_option
def history(service: str | None, data: str | None, as_json: bool) -> int:
    """List the rollouts of a service, oldest first."""
    from finflow.cli.rollout_screen import history as listed

    states = _states(place(data, service))
    if as_json:
        echo_json([summary(state) for state in states])
    else:
        click.echo(listed(states))
    return EXIT_DONE


def _states(place_: "Service") -> "list[State]":
    from finflow.rollout.fold import folded

    return [folded(entries) for entries in place_.rollouts()]


@click.command("log")
@service_argument
@click.option("--verify", is_flag=True, help="Check every line of every rollout; exit 1 names the bad ones.")
@click.option("--all", "everything", is_flag=True, help="Of every rollout, not of the last one.")
@data_option
@json_option
def log_(service: str | None, verify: bool, everything: bool, data: str | None, as_json: bool) -> int:
    """Print the decision log, or check that nobody has changed it."""
    place_ = place(data, service)
    if verify:
        return _verified(place_.verify(), as_json)
    for entries in place_.rollouts() if everything else [place_.last()]:
        for entry in entries:
            if as_json:
                echo_json(entry)
            else:
                click.echo(_log_line(entry))
    return EXIT_DONE


def _verified(found: "Verified", as_json: bool) -> int:
    if as_json:
        echo_json(found)
    elif found.faults:
        click.echo("\n".join(found.faults))
    else:
        click.echo(f"{found.lines} lines, each as it was written. The last one's hash is {found.head}.")
    if found.torn:
        click.echo("The last line is half written: `finflow rollout run` sets it aside.", err=True)
    return EXIT_NO if found.faults else EXIT_DONE


def _log_line(entry: Any) -> str:
    import msgspec

    facts = msgspec.to_builtins(entry.told)
    event = facts.pop("event")
    facts.pop("spec", None)
    facts.pop("readings", None)
    shown = " ".join(
        f"{name}={_shown(value)}" for name, value in facts.items() if value not in ("", None, {}, [])
    )
    return f"{entry.seq:>6}  {entry.at}  {entry.who:<16.16}  {event:<10} {shown}"


def _shown(value: object) -> str:
    import msgspec

    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@click.command("dora")
@service_argument
@click.option("--since", metavar="MOMENT", help="RFC 3339, or days like 30d [30d].", default="30d")
@data_option
@json_option
def dora_(service: str | None, since: str, data: str | None, as_json: bool) -> int:
    """Deployment frequency, lead time, change failure rate and recovery time, from the decision log."""
    from finflow.rollout.dora import measures
    from finflow.rollout.log import now

    until = now()
    found = measures(_states(place(data, service)), _since(since, until), until)
    if as_json:
        echo_json(found)
    else:
        click.echo(_delivery(found))
    return EXIT_DONE


def _since(text: str, until: str) -> str:
    import re
    from datetime import datetime, timedelta

    if days := re.fullmatch(r"(\d{1,5})d", text):
        return (datetime.fromisoformat(until) - timedelta(days=int(days[1]))).isoformat()
    from finflow.rollout.spec import moment

    found = moment(text)
    if found is None:
        raise click.BadParameter("write it like 2026-06-01T00:00:00Z, or 30d", param_hint="--since")
    return found.isoformat()


def _delivery(found: "Delivery") -> str:
    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:,.2f} s"

    rate = "-" if found.change_failure_rate is None else f"{found.change_failure_rate:.1%}"
    served = f"{found.changes_failed} of {found.changes_served} changes that served somebody"
    rows = (
        (
            "deployment frequency",
            f"{found.deployments_per_day:g} a day",
            f"{found.deployments} in {found.days:g} days",
        ),
        ("change lead time", seconds(found.lead_time_s_median), "median, commit to serving everybody"),
        ("change failure rate", rate, served),
        ("recovery time", seconds(found.recovery_s_median), "median, from detection to weight 0"),
        ("stopped before serving", str(found.stopped_before_serving), "changes that nobody met"),
    )
    return "\n".join(f"{name:<23} {value:>12}  {words}" for name, value, words in rows)
