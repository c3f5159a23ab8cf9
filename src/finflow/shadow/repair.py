"""Putting right what a release did wrong: reversals and corrections, proposed, approved, applied once.

A plan is a file: for each wrong transaction its reversal (or, while it is pending, its release) and the
posting that should have stood in its place. Nothing moves until it is applied, which is asked of the API
like anything else, in the tenant's name. Keys are made from the case's transaction: whoever applies a plan
twice, or two plans of one shadow, moves money once. What needs a judgement of its own is listed for a
person.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from finflow.client.model import Leg, NewTransaction
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.store import Connection
from finflow.shadow.cases import Case
from finflow.shadow.model import WRONG, Outcome

Action = Literal["reverse", "void", "none"]

_ROWS: Final = """
select j.seq, j.recorded_at, j.kind, r.kind as resolved_by, r.key as resolved_key
  from journal j
  left join journal r on r.ledger_no = j.ledger_no and r.target = j.seq and r.code is null
 where j.ledger_no = $1 and j.seq = any($2::bigint[]) and j.code is null
"""
_LEDGERS: Final = """
select l.ledger_no, l.created_at, t.tenant_no, t.created_at as tenant_at
  from ledgers l join tenants t using (tenant_no) where l.ledger_no = any($1::integer[])
"""
_REPAIRABLE: Final = ("post", "hold", "capture")


class Correction(msgspec.Struct, frozen=True):
    """The transaction that should have been booked."""

    entries: list[Leg]
    pending: bool
    description: str
    reference: str | None
    effective_at: str | None
    metadata: dict[str, str]


class Item(msgspec.Struct, frozen=True):
    """One wrong transaction: how it is taken back, what comes in its place, or why a person must look."""

    case_no: int
    tenant_id: str
    ledger_id: str
    transaction_id: str
    seq: int
    outcome: Outcome
    action: Action
    correction: Correction | None
    effective_at: str | None = None
    reason: str | None = None

    @property
    def key(self) -> str:
        """What its idempotency keys begin with: the same in every plan."""
        return f"repair:{self.transaction_id}"


class Plan(msgspec.Struct, frozen=True):
    """Everything that is proposed. `digest` is over the items: a plan that was edited is not applied."""

    made_at: str
    items: list[Item]
    digest: str

    @property
    def for_people(self) -> list[Item]:
        """Items that nothing is done about without a person."""
        return [item for item in self.items if item.action == "none"]


class Applied(msgspec.Struct, frozen=True):
    """What became of one item; `code` is why the ledger refused, and at which step."""

    case_no: int
    transaction_id: str
    done: bool
    taken_back: str | None = None
    corrected: str | None = None
    step: str | None = None
    code: str | None = None
    replayed: bool = False


def digest_of(items: Sequence[Item]) -> str:
    """SHA-256 over the items, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(items, order="deterministic")).hexdigest()


async def make_plan(connection: Connection, cases: Sequence[Case], made_at: str) -> Plan:
    """Propose repairs of what stands wrong in the live books now."""
    wrong = [case for case in cases if case.outcome in WRONG and case.subject != "quote"]
    owners = await _owners(connection, {case.ledger_no for case in wrong})
    items: list[Item] = []
    for ledger_no in sorted(owners):
        mine = [case for case in wrong if case.ledger_no == ledger_no]
        numbers = [case.number for case in mine if case.subject == "command"]
        rows = {row["seq"]: row for row in await connection.fetch(_ROWS, ledger_no, numbers)}
        for case in mine:
            row = rows.get(case.number) if case.subject == "command" else None
            item = _item(case, row, *owners[ledger_no])
            if item is not None:
                items.append(item)
    return Plan(made_at, items, digest_of(items))


async def _owners(connection: Connection, ledger_nos: set[int]) -> dict[int, tuple[str, str]]:
    """Tenant and ledger ids by number."""
    return {
        row["ledger_no"]: (
            ids.mint("ten", to_micros(row["tenant_at"]), 0, row["tenant_no"]),
            ids.mint("led", to_micros(row["created_at"]), row["ledger_no"], 0),
        )
        for row in await connection.fetch(_LEDGERS, sorted(ledger_nos))
    }


def _item(case: Case, row: Any, tenant_id: str, ledger_id: str) -> Item | None:
    transaction_id = ids.mint("txn", to_micros(case.recorded_at), case.ledger_no, case.number)
    action, correction, reason = _proposed(case, row, transaction_id)
    if action == "none" and reason is None:
        return None
    return Item(
        case.case_no, tenant_id, ledger_id, transaction_id, case.number, case.outcome, action, correction,
        case.live.get("effective_at"), reason,
    )  # fmt: skip


def _proposed(case: Case, row: Any, transaction_id: str) -> tuple[Action, Correction | None, str | None]:
    """What to do about a case. Nothing, without a reason, where no money is wrong any more."""
    if case.subject != "command":
        return "none", None, f"a {case.subject} differs: {', '.join(d.place for d in case.differences[:5])}"
    if case.live["code"] is not None:
        return "none", None, "it was refused, and whoever asked was told so; nothing was booked"
    if row is None or row["kind"] not in _REPAIRABLE:
        return "none", None, f"a {case.live['kind']} is not taken back by another transaction"
    if _money(case.live) == _money(case.shadow):
        words = [
            d.place for d in case.differences if not d.place.startswith(("balance_after", "effective_max"))
        ]
        return (
            ("none", None, f"no money is wrong, but: {', '.join(words)}") if words else ("none", None, None)
        )
    return _taken_back(case, row, transaction_id)


def _taken_back(case: Case, row: Any, transaction_id: str) -> tuple[Action, Correction | None, str | None]:
    resolved, ours = row["resolved_by"], (row["resolved_key"] or "").startswith("repair:")
    if row["kind"] == "hold":
        if resolved == "capture":
            return "none", None, "the hold was posted since; its posting is a case of its own"
        if resolved is not None and not ours:
            return "none", None, None
        return "void", _correction(case, transaction_id), None
    if resolved is not None and not ours:
        # Somebody took it back, and meant the payment as a whole.
        return "none", None, None
    return "reverse", _correction(case, transaction_id), None


def _money(effect: Any) -> list[tuple[Any, ...]]:
    return [(e["account_no"], e["amount_minor"], e["held_minor"]) for e in effect["entries"]]


def _correction(case: Case, transaction_id: str) -> Correction | None:
    """The baseline's transaction; None where it would have booked none."""
    if case.shadow["code"] is not None or not case.shadow["entries"]:
        return None
    pending = case.shadow["kind"] == "hold"
    field = "held_minor" if pending else "amount_minor"
    entries = [
        Leg(
            line["account_id"], "debit" if line[field] > 0 else "credit", line["amount"].lstrip("-"),
            line["currency"],
        )
        for line in case.shadow["entries"]
    ]  # fmt: skip
    metadata = {**(case.shadow.get("metadata") or {}), "repairs": transaction_id}
    reference = case.shadow.get("reference")
    effective_at = None if pending else case.shadow.get("effective_at")
    return Correction(entries, pending, f"Correction of {transaction_id}", reference, effective_at, metadata)


# --- the file ------------------------------------------------------------------------------------------


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan where nobody else reads it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
    fresh.chmod(0o600)
    fresh.replace(path)


def read_plan(path: Path) -> Plan:
    """A plan as it was written. Raises file_unreadable and repair_plan_malformed."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise FinFlowError("repair_plan_malformed", f"{path}: {error}") from error
    if digest_of(plan.items) != plan.digest:
        raise FinFlowError("repair_plan_malformed", f"{path}: its items are not those of its digest")
    return plan


# --- applying it ------------------------------------------------------------------------------------------


class Api(msgspec.Struct, frozen=True):
    """What repairs ask of the API, in one tenant's name: the methods of `finflow.client`."""

    reverse: Callable[..., Awaitable[Any]]
    void: Callable[..., Awaitable[Any]]
    post: Callable[..., Awaitable[Any]]


async def apply_plan(plan: Plan, api_of: Callable[[str], Awaitable[Api]], attempt: int = 1) -> list[Applied]:
    """Apply each item, oldest first; what was done before is found done.

    A refusal is kept under its key: after its cause is gone, the next attempt gets the next number.
    """
    return [
        await _apply(item, await api_of(item.tenant_id), attempt)
        for item in sorted(plan.items, key=lambda each: (each.ledger_id, each.seq))
        if item.action != "none"
    ]


async def _apply(item: Item, api: Api, attempt: int) -> Applied:
    taken_back, code = await _once(partial(_take_back, item, api), attempt)
    if code is not None:
        return Applied(item.case_no, item.transaction_id, False, step=item.action, code=code)
    if item.correction is None:
        return Applied(item.case_no, item.transaction_id, True, _id(taken_back), replayed=taken_back.replayed)
    corrected, code = await _once(partial(_correct, item, api), attempt)
    if code is not None:
        return Applied(item.case_no, item.transaction_id, False, _id(taken_back), None, "correct", code)
    replayed = taken_back.replayed and corrected.replayed
    return Applied(
        item.case_no, item.transaction_id, True, _id(taken_back), _id(corrected), replayed=replayed
    )  # fmt: skip


async def _once(step: Callable[[int], Awaitable[Any]], attempts: int) -> tuple[Any, str | None]:
    """A step as the first of the attempts that succeeds has done it, or the code of the last refusal."""
    code = "internal"
    for attempt in range(1, attempts + 1):
        try:
            return await step(attempt), None
        except FinFlowError as error:
            if error.kind.retryable:
                raise
            code = error.kind.code
    return None, code


async def _take_back(item: Item, api: Api, attempt: int) -> Any:
    words, key = f"Wrong: case {item.case_no} of the shadow", f"{item.key}:{item.action}:{attempt}"
    if item.action == "void":
        return await api.void(item.transaction_id, description=words, key=key)
    moment = None if item.effective_at is None else datetime.fromisoformat(item.effective_at)
    return await api.reverse(item.transaction_id, description=words, effective_at=moment, key=key)


async def _correct(item: Item, api: Api, attempt: int) -> Any:
    correction = item.correction
    assert correction is not None, "asked of items that have one"
    moment = None if correction.effective_at is None else datetime.fromisoformat(correction.effective_at)
    new = NewTransaction(
        f"{item.key}:correct:{attempt}", tuple(correction.entries), correction.description,
        correction.reference, moment, correction.metadata, correction.pending,
    )  # fmt: skip
    return await api.post(item.ledger_id, new)


def _id(transaction: Any) -> str:
    return str(transaction.transaction_id)
