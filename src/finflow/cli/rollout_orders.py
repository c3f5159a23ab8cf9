"""`finflow rollout promote|pause|resume|approve|abort`: orders to the controller that runs."""

from typing import TYPE_CHECKING, Final

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.cli.rollout import place, service_argument
from finflow.kernel.errors import EXIT_DONE, EXIT_UNREACHABLE, FinFlowError

if TYPE_CHECKING:
    from finflow.app.rollouts import Service
    from finflow.rollout.events import Order
    from finflow.rollout.events import Ordered as Told

_ANSWER_WITHIN_S: Final = 10.0
_POLL_S: Final = 0.05
_reason = click.option("--reason", default="", help="Why; it stands in the decision log.")


@click.command
@service_argument
@click.option("--full", is_flag=True, help="Skip every step and bake that is left, but no approval.")
@_reason
@data_option
@json_option
def promote(service: str | None, full: bool, reason: str, data: str | None, as_json: bool) -> int:
    """Let the step pass that bakes or is paused, or with --full the whole rollout."""
    from finflow.rollout.events import Order

    return _given(place(data, service), Order.PROMOTE_FULL if full else Order.PROMOTE, reason, as_json)


@click.command
@service_argument
@_reason
@data_option
@json_option
def pause(service: str | None, reason: str, data: str | None, as_json: bool) -> int:
    """Stay at this weight; the gates go on judging, and a bad candidate is taken back."""
    from finflow.rollout.events import Order

    return _given(place(data, service), Order.PAUSE, reason, as_json)


@click.command
@service_argument
@_reason
@data_option
@json_option
def resume(service: str | None, reason: str, data: str | None, as_json: bool) -> int:
    """Go on after a pause; a weight that somebody else has set is set right."""
    from finflow.rollout.events import Order

    return _given(place(data, service), Order.RESUME, reason, as_json)


@click.command
@service_argument
@_reason
@data_option
@json_option
def approve(service: str | None, reason: str, data: str | None, as_json: bool) -> int:
    """Approve the step that waits for it, and what its checks have shown."""
    from finflow.rollout.events import Order

    return _given(place(data, service), Order.APPROVE, reason, as_json)


@click.command
@service_argument
@_reason
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_option
@json_option
def abort(service: str | None, reason: str, yes: bool, data: str | None, as_json: bool) -> int:
    """Take the candidate back at once: weight 0, read back from the ingress; also without a controller."""
    from finflow.rollout.events import Order
    from finflow.rollout.fold import folded

    place_ = place(data, service)
    state = folded(place_.last())
    if state.ended:
        raise FinFlowError("order_refused", f"{state.candidate} has ended: it is {state.phase}.")
    if not yes:
        click.confirm(f"Take {state.candidate} back from {state.weight_bp / 100:g} %?", abort=True, err=True)
    if place_.controller is None:
        return _by_itself(place_, reason, as_json)
    return _given(place_, Order.ABORT, reason, as_json)


def _by_itself(place_: "Service", reason: str, as_json: bool) -> int:
    """Without a controller the command becomes one for as long as it takes. It needs the router alone: what
    else the specification names, such as the variables of its checks, may be missing where it runs.
    """
    import asyncio

    from finflow.app import taking_back
    from finflow.cli.rollout import carried_on, summary
    from finflow.rollout.events import Order
    from finflow.rollout.fold import folded
    from finflow.rollout.model import refusal
    from finflow.rollout.state import Phase

    before = folded(place_.last())
    if words := refusal(before, Order.ABORT) if before.phase is not Phase.ABORTING else "":
        raise FinFlowError("order_refused", f"{words[:1].upper()}{words[1:]}.")
    place_.orders.drop(before.rollout_id, Order.ABORT, reason)
    state = asyncio.run(carried_on(place_, taking_back.composed))
    if as_json:
        echo_json(summary(state))
    else:
        click.echo(f"{state.candidate} {state.phase}: {state.reason}")
    return EXIT_DONE if state.phase is Phase.ABORTED else EXIT_UNREACHABLE


def _given(place_: "Service", order: "Order", reason: str, as_json: bool) -> int:
    """Drops the order and waits until it stands in the log."""
    from finflow.rollout.fold import folded

    rollout_id = folded(place_.last()).rollout_id
    if place_.controller is None:
        raise FinFlowError("rollout_not_running", f"No process controls {place_.name}.")
    given = place_.orders.drop(rollout_id, order, reason)
    told = _answer(place_, given.order_id)
    if told is None:
        place_.orders.forget(given.order_id)
        # It holds the lock and does nothing, as when it was stopped: nobody else can take the service over.
        hung = f"Process {place_.controller} did not take the order up within {_ANSWER_WITHIN_S:.0f} s."
        raise FinFlowError("rollout_not_running", f"{hung} End it with kill -9, and order again.")
    if not told.accepted:
        raise FinFlowError("order_refused", f"{told.words[:1].upper()}{told.words[1:]}.")
    if as_json:
        echo_json({"order": order, "order_id": given.order_id, "accepted": True})
    else:
        click.echo(f"{order.replace('_', ' ')}: taken up by the controller of {place_.name}.")
    return EXIT_DONE


def _answer(place_: "Service", order_id: str) -> "Told | None":
    import time

    from finflow.rollout.events import Ordered

    deadline = time.monotonic() + _ANSWER_WITHIN_S
    while time.monotonic() < deadline:
        for entry in reversed(place_.last()):
            if isinstance(entry.told, Ordered) and entry.told.order_id == order_id:
                return entry.told
        time.sleep(_POLL_S)
    return None
