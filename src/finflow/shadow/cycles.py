"""Settlement cycles netted once more, by the baseline's netting, from the live orders."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from finflow.ledger import store as ledger_store
from finflow.ledger.store import Connection
from finflow.settlement import cycle_store, order_store, orders, participant_store
from finflow.settlement.netting import Obligation, net
from finflow.settlement.orders import NetLine
from finflow.shadow.model import Compared, Difference, Outcome

PAGE: Final = 10_000
_NETTED: Final = """
select s.ledger_no, s.cycle_no, s.at from settlement_steps s
 where s.action = 'net'
   and (s.ledger_no, s.cycle_no) <> all (select * from unnest($1::integer[], $2::bigint[]))
 order by s.at, s.ledger_no, s.cycle_no limit 100
"""


class JudgedCycle(NamedTuple):
    """A netted cycle judged."""

    ledger_no: int
    cycle_no: int
    at: Any
    live: dict[str, Any]
    shadow: dict[str, Any]
    compared: Compared

    @property
    def whole(self) -> bool:
        """Whether there was everything to compare, or nothing is to be held."""
        nothing = all(
            not each["net_minor"] for place, each in self.shadow.items() if place[:9] == "position["
        )
        return "position_hold" in self.live or nothing


async def read_netted(connection: Connection, done: set[tuple[int, int]]) -> list[Any]:
    """Cycles that are netted, oldest first, without those that are done."""
    ledger_nos, cycle_nos = [each[0] for each in done], [each[1] for each in done]
    return list(await connection.fetch(_NETTED, ledger_nos, cycle_nos))


async def judge_cycle(connection: Connection, netted: Any) -> JudgedCycle:
    """The word on a cycle's obligations, positions and, once there is one, the hold that settles them."""
    ledger_no, cycle_no = netted["ledger_no"], netted["cycle_no"]
    row = await cycle_store.read_cycle(connection, ledger_no, cycle_no)
    assert row is not None, "cycles are never removed"
    known = await participant_store.read_participants(connection, ledger_no)
    names = {each.participant_no: each.name for each in known}
    report = net(await _obligations(connection, ledger_no, cycle_no, row.cycle.currency, names))
    kept = await cycle_store.read_positions(connection, ledger_no, cycle_no)
    live: dict[str, Any] = {f"position[{each.participant}]": _shown(each) for _, each in kept}
    shadow: dict[str, Any] = {f"position[{each.participant}]": _shown(each) for each in report.positions}
    live["obligations"], shadow["obligations"] = row.cycle.evidence_of("net"), report.obligations_digest
    accounts = {each.name: each.accounts for each in known}
    lines = [
        NetLine(accounts[each.participant][row.cycle.currency].settlement_id, each.net_minor)
        for each in report.positions
    ]
    held = await _held(connection, ledger_no, row, lines)
    if held is not None:
        live["position_hold"], shadow["position_hold"] = held
    places = sorted(live.keys() | shadow.keys())
    differences = tuple(
        Difference(place, live.get(place), shadow.get(place))
        for place in places
        if live.get(place) != shadow.get(place)
    )
    outcome = Outcome.MISMATCH if differences else Outcome.MATCH
    return JudgedCycle(ledger_no, cycle_no, netted["at"], live, shadow, Compared(outcome, differences))


def _shown(position: Any) -> dict[str, Any]:
    return {
        "payable_minor": position.payable_minor,
        "receivable_minor": position.receivable_minor,
        "net_minor": position.net_minor,
        "obligations": position.obligations,
    }


async def _obligations(
    connection: Connection, ledger_no: int, cycle_no: int, currency: str, names: dict[int, str]
) -> list[Obligation]:
    """What the cycle's held orders make participants owe each other."""
    found: list[Obligation] = []
    after = 0
    while True:
        page = await order_store.read_cycle_page(connection, ledger_no, cycle_no, after, PAGE)
        found += [
            Obligation(
                orders.order_id(ledger_no, each.order_no, each.accepted_at),
                names[each.payer_no], names[each.payee_no], currency, each.amount_minor,
            )
            for each in page
            if each.held is not None and each.payer_no != each.payee_no
        ]  # fmt: skip
        if len(page) < PAGE:
            return found
        after = page[-1].order_no


async def _held(
    connection: Connection, ledger_no: int, row: Any, lines: Sequence[NetLine]
) -> tuple[Any, Any] | None:
    """Lines of the hold on the settlement accounts as it is booked, and as it should be."""
    cycle = row.cycle
    if not cycle.submissions:
        return None
    key = orders.position_key(ledger_no, cycle.cycle_no, cycle.submissions)
    found = await ledger_store.find_by_key(connection, ledger_no, [key])
    if key not in found or found[key].code is not None:
        return None
    reference = orders.cycle_id(ledger_no, cycle.cycle_no, row.opened_at)
    request = orders.position_hold(key, lines, cycle.currency, row.exponent, reference)
    expected = [] if request is None else _lines(request.command)
    return _lines(found[key].command), expected


def _lines(command: Any) -> list[tuple[str, str, str]]:
    return sorted((line.account_id, line.direction, line.amount) for line in command.entries)
